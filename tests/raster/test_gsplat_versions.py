# SPDX-License-Identifier: Apache-2.0
"""What differs between gsplat's versions; runs of the suite with another gsplat test the rest."""

import pytest
import torch
from brute_force import covariances

from harmonizer_ns.raster import gsplat_versions, rasterization
from harmonizer_ns.raster.gsplat_versions import check_newer, mend_resets, meta_radii, shown

CAMERA = {
    "viewmats": torch.eye(4).expand(2, 4, 4),
    "Ks": torch.tensor([[40.0, 0, 20], [0, 40, 15], [0, 0, 1]]).expand(2, 3, 3),
    "width": 40,
    "height": 30,
}


def use(monkeypatch, *version):
    monkeypatch.setattr(gsplat_versions, "gsplat_version", lambda: version)


def splats(n=30):
    g = torch.Generator().manual_seed(0)
    means = (torch.rand(n, 3, generator=g) - 0.5) * 4 + torch.tensor([0, 0, 2.5])
    scales, quats = torch.rand(n, 3, generator=g), torch.randn(n, 4, generator=g)
    return means, quats, scales, torch.full((n,), 0.5), torch.rand(n, 3, generator=g)


def test_the_installed_gsplat_is_known():
    import gsplat

    assert gsplat.__version__.startswith(".".join(map(str, gsplat_versions.gsplat_version())))


def test_two_radii_are_three_deviations_along_x_and_y(monkeypatch):
    use(monkeypatch, 1, 5, 0)
    image = covariances(torch.randn(50, 4), torch.rand(50, 3) * 20 + 1)[:, :2, :2].double()
    inverse = torch.linalg.inv(image)
    conics = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], dim=-1).float()
    radii = torch.ceil(3 * torch.linalg.eigvalsh(image)[:, 1].sqrt()).int()
    radii[::5], conics[::5] = 0, 0  # culled
    expected = torch.ceil(3 * image.diagonal(dim1=1, dim2=2).sqrt()).int()
    expected[::5] = 0
    assert (meta_radii(radii, conics) - expected).abs().max() <= 1  # float32 where 3 s is nearly whole
    assert not meta_radii(radii, conics)[::5].any()
    needle = torch.tensor([[1.0, 1.0, 1.0]])  # without an inverse
    assert meta_radii(torch.tensor([9], dtype=torch.int32), needle).tolist() == [[9, 9]]


@pytest.mark.parametrize("packed", [True, False])
def test_both_forms_of_radii_show_the_same_gaussians(monkeypatch, packed):
    found = {}
    for version in ((1, 4, 0), (1, 5, 3)):
        use(monkeypatch, *version)
        radii = rasterization(*splats(), **CAMERA, packed=packed)[2]["radii"]
        found[version] = radii, shown(radii)
    (one, seen), (two, seen_too) = found.values()
    assert torch.equal(seen, seen_too)
    assert seen.any()
    assert two.shape == (*one.shape, 2)
    assert (two.max(dim=-1).values <= one).all()


def newer_rasterization(means, *, segmented=False, with_ut=False, radial_coeffs=None):
    """The signature of a newer gsplat, shortened."""


def test_arguments_of_newer_gsplats_are_taken_at_their_defaults(monkeypatch):
    monkeypatch.setattr("gsplat.rasterization", newer_rasterization)
    plain = rasterization(*splats(), **CAMERA)[0]
    same = rasterization(*splats(), **CAMERA, segmented=True, with_ut=False, radial_coeffs=None)[0]
    assert torch.equal(plain, same)
    with pytest.raises(ValueError, match="supports with_ut False only, got True"):
        rasterization(*splats(), **CAMERA, with_ut=True)
    with pytest.raises(ValueError, match="supports radial_coeffs None only"):
        check_newer({"radial_coeffs": torch.zeros(2, 6)})
    with pytest.raises(TypeError, match="unexpected keyword argument 'witch_ut'"):
        rasterization(*splats(), **CAMERA, witch_ut=False)


def resets_of(strategy, steps):
    """After which steps opacities were reset."""
    params = {name: torch.nn.Parameter(torch.zeros(5, 3)) for name in ("means", "scales", "quats")}
    params["opacities"] = torch.nn.Parameter(torch.zeros(5))
    optimizers = {name: torch.optim.Adam([value]) for name, value in params.items()}
    done, state = [], strategy.initialize_state()
    for step in steps:
        means2d = torch.zeros(1, 5, 2, requires_grad=True)
        means2d.grad = torch.zeros_like(means2d)
        radii = meta_radii(torch.ones(1, 5, dtype=torch.int32), torch.ones(1, 5, 3))
        info = {"means2d": means2d, "radii": radii, "gaussian_ids": None, "width": 4, "height": 4, "n_cameras": 1}
        strategy.step_post_backward(params, optimizers, state, step, info)
        if params["opacities"].max() < -4:
            done.append(step)
            with torch.no_grad():
                params["opacities"].zero_()
    return done


def test_opacities_are_reset_with_every_gsplat():
    from gsplat import DefaultStrategy

    mend_resets()
    strategy = DefaultStrategy(reset_every=4, refine_stop_iter=11)
    assert resets_of(strategy, range(1, 16)) == [4, 8]


def test_a_gsplat_that_never_resets_is_mended_once(monkeypatch):
    from gsplat import DefaultStrategy

    calls = []
    monkeypatch.setattr(DefaultStrategy, "step_post_backward", lambda self, *args, **named: calls.append(args))
    use(monkeypatch, 1, 5, 2)
    mend_resets()
    assert resets_of(DefaultStrategy(reset_every=4, refine_stop_iter=11), range(1, 16)) == []
    use(monkeypatch, 1, 5, 3)
    mend_resets()
    mended = DefaultStrategy.step_post_backward
    mend_resets()
    assert DefaultStrategy.step_post_backward is mended
    assert resets_of(DefaultStrategy(reset_every=4, refine_stop_iter=11), range(16)) == [4, 8]
    assert len(calls) == 31
