# SPDX-License-Identifier: Apache-2.0
"""Image and every gradient against the float64 brute force."""

import pytest
import torch
from brute_force import covariances, render

from harmonizer_ns.raster import rasterization
from harmonizer_ns.raster.gsplat_versions import shown

W, H = 61, 43


def scene(n=60, cameras=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(n, 3, generator=g) * torch.tensor([1.5, 1.0, 1.0]) + torch.tensor([0, 0, 3.0])
    views = torch.eye(4).repeat(cameras, 1, 1)
    for c in range(cameras):
        views[c, :3, :3] = torch.linalg.qr(torch.eye(3) + 0.1 * torch.randn(3, 3, generator=g))[0]
        views[c, :3, :3] *= torch.sign(torch.diagonal(views[c, :3, :3]))[None]
        views[c, :3, 3] = 0.2 * torch.randn(3, generator=g)
    K = torch.tensor([[50.0, 0, 29], [0, 47, 22], [0, 0, 1]]).repeat(cameras, 1, 1)
    return {
        "means": means,
        "quats": torch.randn(n, 4, generator=g),
        "scales": torch.exp(torch.randn(n, 3, generator=g) * 0.5 - 2.0),
        "opacities": torch.rand(n, generator=g),
        "colors": torch.rand(n, 3, generator=g),
        "viewmats": views,
        "Ks": K,
    }


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-12))


def run(function, tensors, dtype, options):
    inputs = {k: v.to(dtype).clone().requires_grad_(k != "Ks") for k, v in tensors.items()}
    image, alpha, extra = function(**inputs, width=W, height=H, **options)
    g = torch.Generator().manual_seed(1)
    loss = (image * torch.randn(image.shape, generator=g)).sum() + (alpha * torch.randn(alpha.shape, generator=g)).sum()
    if isinstance(extra, dict):
        extra["means2d"].retain_grad()
    loss.backward()
    return image.detach(), alpha.detach(), {k: v.grad for k, v in inputs.items() if v.requires_grad}, extra


def check(tensors, tolerance=1e-4, **options):
    image, alpha, grads, meta = run(rasterization, tensors, torch.float32, options)
    reference_image, reference_alpha, reference_grads, means2d = run(render, tensors, torch.float64, options)
    assert relative(alpha, reference_alpha) < 1e-5
    assert relative(image, reference_image) < 1e-5
    assert reference_alpha.max() > 0.5
    for name, expected in reference_grads.items():
        if expected is None:
            assert grads[name] is None or not grads[name].any(), name
        else:
            assert expected.norm() > 0, name
            assert relative(grads[name], expected) < tolerance, (name, relative(grads[name], expected))
    return meta, means2d


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
@pytest.mark.parametrize("cameras", [1, 3])
def test_values_gradients(packed, mode, cameras):
    tensors = scene(cameras=cameras)
    tensors["backgrounds"] = torch.rand(cameras, 3)
    meta, means2d = check(tensors, packed=packed, rasterize_mode=mode)
    for c, (own, reference) in enumerate(means2d):
        if packed:
            mine = meta["camera_ids"] == c
            assert torch.equal(meta["gaussian_ids"][mine], own)
            ours = meta["means2d"].grad[mine]
        else:
            assert torch.equal(torch.where(shown(meta["radii"][c]))[0], own)
            ours = meta["means2d"].grad[c, own]
        assert relative(ours, reference.grad) < 1e-4


@pytest.mark.parametrize("render_mode", ["D", "ED", "RGB+D", "RGB+ED"])
@pytest.mark.parametrize("packed", [True, False])
def test_depth_modes(render_mode, packed):
    tensors = scene(cameras=2, seed=3)
    if render_mode in ("D", "ED"):
        del tensors["colors"]
        tensors["colors"] = torch.rand(60, 3)
    else:
        tensors["backgrounds"] = torch.rand(2, 3)
    check(tensors, render_mode=render_mode, packed=packed)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("per_camera", [False, True])
def test_harmonics(degree, per_camera):
    tensors = scene(cameras=2, seed=5)
    shape = (2, 60, 16, 3) if per_camera else (60, 16, 3)
    tensors["colors"] = torch.randn(shape, generator=torch.Generator().manual_seed(degree)) * 0.4
    check(tensors, sh_degree=degree, packed=bool(degree % 2))


def test_covariances_instead_of_quaternions():
    tensors = scene(seed=7)
    tensors["covars"] = covariances(tensors.pop("quats"), tensors.pop("scales"))
    check(tensors, quats=None, scales=None, packed=False)


@pytest.mark.parametrize("channels", [1, 2, 7, 40])
def test_any_number_of_channels(channels):
    tensors = scene(seed=9)
    tensors["colors"] = torch.rand(60, channels)
    tensors["backgrounds"] = torch.rand(1, channels)
    check(tensors, packed=False)


def test_colors_per_camera():
    tensors = scene(cameras=2, seed=11)
    tensors["colors"] = torch.rand(2, 60, 3)
    check(tensors, packed=True)


def test_opaque_stack_stops_and_clamps():
    tensors = scene(n=40, seed=13)
    tensors["means"][:, :2] *= 0.1
    tensors["opacities"] = torch.full((40,), 0.9999)
    tensors["scales"] *= 2
    check(tensors, packed=False)


def test_absolute_gradient_is_the_sum_over_pixels():
    width, height = 9, 7
    tensors = scene(n=12, seed=15)
    tensors["Ks"] = torch.tensor([[[8.0, 0, 4], [0, 8, 3], [0, 0, 1]]])
    tensors["means"].requires_grad_()
    image, _, meta = rasterization(**tensors, width=width, height=height, packed=False, absgrad=True)
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    per_pixel = [
        torch.autograd.grad((image * weights)[0, y, x].sum(), meta["means2d"], retain_graph=True)[0]
        for y in range(height)
        for x in range(width)
    ]
    (image * weights).sum().backward()
    expected = torch.stack(per_pixel).abs().sum(dim=0)
    assert expected.norm() > 0
    assert relative(meta["means2d"].absgrad, expected) < 1e-5


def test_agrees_with_gsplats_own_torch_functions():
    from harmonizer_ns.bench import raster as benchmark

    scene = benchmark.random_scene(300, 70, 50, scale=1.0)
    image, alpha, meta = benchmark.render(scene)
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    names = list(scene.parameters)
    ours = torch.autograd.grad((image * weights).sum(), list(scene.parameters.values()))
    pairs = benchmark.contributing_pairs(meta, 70, 50)
    expected, expected_alpha = benchmark.render_reference(scene, pairs)
    theirs = torch.autograd.grad((expected * weights).sum(), list(scene.parameters.values()))
    assert relative(image.detach(), expected.detach()) < 1e-4
    assert relative(alpha.detach(), expected_alpha.detach()) < 1e-4
    for name, a, b in zip(names, ours, theirs, strict=True):
        assert relative(a, b) < 1e-3, name
