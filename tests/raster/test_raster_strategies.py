# SPDX-License-Identifier: Apache-2.0
"""gsplat's two strategies on our rasterizer, and the CPU operations MCMC needs."""

import math

import pytest
import torch
from brute_force import covariances

from harmonizer_ns.raster import rasterization
from harmonizer_ns.raster.strategies import compute_relocation, quat_scale_to_covar_preci, use_cpu_ops

SIZE = 32
CAMERA = {
    "viewmats": torch.eye(4)[None],
    "Ks": torch.tensor([[[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1]]]).float(),
    "width": SIZE,
    "height": SIZE,
}


def target():
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return torch.stack([((x // 4 + y // 4) % 2).float(), x / SIZE, y / SIZE], -1)[None]


def start(n=60):
    g = torch.Generator().manual_seed(0)
    values = {
        "means": (torch.rand(n, 3, generator=g) - 0.5) * 2 + torch.tensor([0, 0, 3.0]),
        "scales": torch.full((n, 3), -2.0),
        "quats": torch.randn(n, 4, generator=g),
        "opacities": torch.full((n,), -1.0),
        "colors": torch.zeros(n, 3),
    }
    values["opacities"][::10] = -7.0  # dead ones, to prune or relocate
    rates = {"means": 3e-3, "scales": 2e-2, "quats": 1e-2, "opacities": 3e-2, "colors": 5e-2}
    params = {name: torch.nn.Parameter(value) for name, value in values.items()}
    return params, {name: torch.optim.Adam([params[name]], lr=rates[name]) for name in params}


def fit(strategy, packed, after_step, state, steps=200, absgrad=False):
    params, optimizers = start()
    strategy.check_sanity(params, optimizers)
    goal, losses, counts = target(), [], []
    for step in range(steps):
        image, _, info = rasterization(
            params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid(),
            params["colors"].sigmoid(), **CAMERA, packed=packed, absgrad=absgrad,
        )  # fmt: skip
        strategy.step_pre_backward(params, optimizers, state, step, info)
        loss = (image - goal).abs().mean()
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        after_step(params, optimizers, state, step, info)
        losses.append(loss.item())
        counts.append(len(params["means"]))
    return losses, counts, params


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("absgrad", [True, False])
def test_default_strategy_densifies_and_learns(packed, absgrad):
    from gsplat import DefaultStrategy

    torch.manual_seed(0)
    strategy = DefaultStrategy(
        refine_start_iter=20, refine_every=40, reset_every=10_000, refine_scale2d_stop_iter=100, absgrad=absgrad,
        grow_grad2d=8e-4 if absgrad else 2e-4,
    )  # fmt: skip

    def after_step(*args):
        strategy.step_post_backward(*args, packed=packed)

    losses, counts, params = fit(strategy, packed, after_step, strategy.initialize_state(), absgrad=absgrad)
    assert max(counts) > 80
    assert torch.sigmoid(params["opacities"]).min() > 0.001  # the dead ones began at 0.0009
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("packed", [True, False])
def test_mcmc_strategy_relocates_and_learns(packed):
    from gsplat import MCMCStrategy

    torch.manual_seed(0)
    strategy = MCMCStrategy(cap_max=100, refine_start_iter=20, refine_every=20, noise_lr=1.0)

    use_cpu_ops()

    def after_step(*args):
        strategy.step_post_backward(*args, lr=1e-3)

    losses, counts, params = fit(strategy, packed, after_step, strategy.initialize_state())
    assert counts[-1] > counts[0]
    assert max(counts) <= 100
    assert torch.sigmoid(params["opacities"]).min() > 0.002
    assert losses[-1] < 0.6 * losses[0]


def test_relocation_follows_equation_9():
    g = torch.Generator().manual_seed(0)
    opacities, scales = torch.rand(30, generator=g) * 0.98 + 0.01, torch.rand(30, 3, generator=g) + 0.1
    ratios = torch.randint(1, 12, (30,), generator=g)
    ratios[0] = 80  # above the table: clamped
    binoms = torch.tensor([[math.comb(n, k) for k in range(51)] for n in range(51)], dtype=torch.float32)
    new_opacities, new_scales = compute_relocation(opacities, scales, ratios, binoms)
    for i in range(30):
        o, n = float(opacities[i]), min(int(ratios[i]), 51)
        new = 1 - (1 - o) ** (1 / n)
        terms = [
            math.comb(j - 1, k) * (-1) ** k * new ** (k + 1) / math.sqrt(k + 1)
            for j in range(1, n + 1)
            for k in range(j)
        ]
        assert float(new_opacities[i]) == pytest.approx(new, rel=1e-5)
        assert new_scales[i].tolist() == pytest.approx((scales[i] * o / math.fsum(terms)).tolist(), rel=1e-4)
    again, _ = compute_relocation(opacities[:, None], scales, ratios, binoms)
    assert torch.equal(again[:, 0], new_opacities)


def test_covariances_and_precisions():
    quats, scales = torch.randn(20, 4), torch.rand(20, 3) + 0.2
    covariance, precision = quat_scale_to_covar_preci(quats, scales)
    assert torch.allclose(covariance, covariances(quats, scales), atol=1e-5)
    assert torch.allclose(covariance @ precision, torch.eye(3).expand(20, 3, 3), atol=1e-3)
    upper, nothing = quat_scale_to_covar_preci(quats, scales, compute_preci=False, triu=True)
    assert nothing is None
    assert torch.equal(upper, covariance[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]])


def test_cpu_ops_replace_gsplats_once(monkeypatch):
    from gsplat.strategy import ops

    names = ("compute_relocation", "quat_scale_to_covar_preci")
    theirs = [lambda values, name=name: name for name in names]
    for name, function in zip(names, theirs, strict=True):  # another test may have put the CPU's there for good
        monkeypatch.setattr(ops, name, function)
    use_cpu_ops()
    first = [getattr(ops, name) for name in names]
    assert [dispatch(torch.empty(1, device="meta")) for dispatch in first] == list(names)
    use_cpu_ops()
    assert [getattr(ops, name) for name in names] == first
