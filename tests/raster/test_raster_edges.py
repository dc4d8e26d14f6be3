# SPDX-License-Identifier: Apache-2.0
"""Empty, tiny, broken and huge inputs; threads; memory."""

import math
import threading
import time
import tracemalloc

import pytest
import torch
from brute_force import render

from harmonizer_ns.raster import get_num_threads, gsplat_versions, rasterization, rasterization_cpu, set_num_threads
from harmonizer_ns.raster.gsplat_versions import shown


def gaussians(n, seed=0, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    return {
        "means": torch.randn(n, 3, generator=g) * spread + torch.tensor([0, 0, 4.0]),
        "quats": torch.randn(n, 4, generator=g),
        "scales": torch.exp(torch.randn(n, 3, generator=g) * 0.3 - 2.5),
        "opacities": torch.rand(n, generator=g),
        "colors": torch.rand(n, 3, generator=g),
    }


def camera(width, height):
    return {
        "viewmats": torch.eye(4)[None],
        "Ks": torch.tensor([[[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]]]).float(),
        "width": width,
        "height": height,
    }


def leaves(tensors):
    return {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}


@pytest.fixture
def threads():
    before = get_num_threads()
    yield set_num_threads
    set_num_threads(None)
    assert get_num_threads() == before


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("sh_degree", [None, 1])
def test_no_gaussians(packed, sh_degree):
    inputs = gaussians(0)
    if sh_degree is not None:
        inputs["colors"] = torch.zeros(0, 4, 3)
    inputs = leaves(inputs)
    background = torch.tensor([[0.1, 0.2, 0.3]])
    image, alpha, meta = rasterization(
        **inputs, **camera(20, 10), packed=packed, sh_degree=sh_degree, backgrounds=background
    )
    (image.sum() + alpha.sum()).backward()
    assert torch.allclose(image, background[:, None, None].expand(1, 10, 20, 3))
    assert not alpha.any()
    assert len(meta["flatten_ids"]) == 0
    assert inputs["means"].grad.shape == (0, 3)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("render_mode", ["RGB", "RGB+ED"])
def test_nothing_visible_gives_zero_gradients(packed, render_mode):
    inputs = gaussians(5)
    inputs["means"][:, 2] = -4.0
    inputs = leaves(inputs)
    image, alpha, meta = rasterization(**inputs, **camera(20, 10), packed=packed, render_mode=render_mode)
    meta["means2d"].retain_grad()
    (image.sum() + alpha.sum()).backward()
    assert not image.any()
    assert not alpha.any()
    for name, tensor in inputs.items():
        assert tensor.grad is not None, name
        assert not tensor.grad.any(), name


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 33), (17, 16), (15, 31), (64, 3)])
def test_one_gaussian_in_images_of_odd_size(width, height):
    inputs = gaussians(1)
    inputs["means"] = torch.tensor([[0.1, 0.0, 2.0]])
    inputs["opacities"] = torch.tensor([0.8])
    inputs["scales"] = torch.tensor([[0.5, 0.4, 0.3]])
    view = camera(width, height)
    image, alpha, _ = rasterization(**inputs, **view)
    doubles = {k: v.double() if torch.is_tensor(v) else v for k, v in (inputs | view).items()}
    expected, expected_alpha, _ = render(**doubles)
    assert image.shape == (1, height, width, 3)
    assert expected_alpha.max() > 0.5
    assert torch.allclose(image.double(), expected, atol=1e-6)
    assert torch.allclose(alpha.double(), expected_alpha, atol=1e-6)


def test_gaussians_across_the_near_plane_match_the_reference():
    inputs = gaussians(80, seed=2)
    inputs["means"][:, 2] = torch.linspace(-0.5, 1.5, 80)
    view = camera(40, 30)
    doubles = {k: v.double() if torch.is_tensor(v) else v for k, v in (inputs | view).items()}
    image, _, meta = rasterization(**inputs, **view, near_plane=0.2, far_plane=1.2, packed=False)
    expected, _, _ = render(**doubles, near_plane=0.2, far_plane=1.2)
    drawn = meta["depths"][shown(meta["radii"])]
    assert drawn.min() >= 0.2
    assert drawn.max() <= 1.2
    assert (image.double() - expected).norm() / expected.norm() < 1e-4


def test_radius_clip_skips_small_gaussians(monkeypatch):
    monkeypatch.setattr(gsplat_versions, "gsplat_version", lambda: (1, 4, 0))
    inputs = gaussians(50)
    _, _, everything = rasterization(**inputs, **camera(40, 30), packed=False)
    limit = int(everything["radii"][everything["radii"] > 0].median())
    _, _, some = rasterization(**inputs, **camera(40, 30), packed=False, radius_clip=limit)
    expected = torch.where(everything["radii"] > limit, everything["radii"], 0)
    assert torch.equal(some["radii"], expected)
    assert 0 < (expected > 0).sum() < (everything["radii"] > 0).sum()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colors"])
def test_broken_gaussians_are_left_out(name, bad):
    inputs = gaussians(40, seed=4)
    broken = {k: v.clone() for k, v in inputs.items()}
    broken[name].reshape(40, -1)[::4, 0] = bad
    keep = torch.arange(40) % 4 != 0
    expected, _, _ = rasterization(**{k: v[keep] for k, v in inputs.items()}, **camera(40, 30))
    broken = leaves(broken)
    image, _, _ = rasterization(**broken, **camera(40, 30))
    assert torch.allclose(image, expected, atol=1e-6)
    image.square().sum().backward()
    for tensor in broken.values():
        assert torch.isfinite(tensor.grad[keep]).all()
        assert not tensor.grad[~keep].any()


def test_zero_quaternion_and_zero_scale_are_harmless():
    inputs = gaussians(10)
    inputs["quats"][0] = 0
    inputs["scales"][1] = 0
    inputs = leaves(inputs)
    image, _, meta = rasterization(**inputs, **camera(40, 30), packed=False)
    image.sum().backward()
    assert shown(meta["radii"])[0, :2].tolist() == [False, True]
    assert all(torch.isfinite(tensor.grad).all() for tensor in inputs.values())


def test_other_dtypes_and_layouts():
    inputs = gaussians(30)
    expected, _, _ = rasterization(**inputs, **camera(40, 30))
    odd = {k: v.double().repeat_interleave(2, dim=0)[::2] for k, v in inputs.items()}
    odd["colors"] = odd["colors"].T.contiguous().T
    odd = {k: v.requires_grad_() for k, v in odd.items()}
    image, _, _ = rasterization(**odd, **camera(40, 30))
    image.sum().backward()
    assert torch.equal(image, expected)
    assert odd["colors"].grad.dtype == torch.float64


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ({"camera_model": "fisheye"}, "fisheye"),
        ({"camera_model": "ortho"}, "ortho"),
        ({"distributed": True}, "distributed=True"),
        ({"sparse_grad": True}, "sparse_grad=True"),
        ({"render_mode": "BGR"}, "BGR"),
        ({"rasterize_mode": "fancy"}, "fancy"),
        ({"tile_size": 8}, "8"),
        ({"opacities": torch.ones(3, 1)}, r"\(3, 1\)"),
        ({"backgrounds": torch.ones(1, 4)}, r"\(1, 4\)"),
        ({"sh_degree": 4, "colors": torch.ones(3, 25, 3)}, "got 4"),
        ({"sh_degree": 2, "colors": torch.ones(3, 4, 3)}, "sh_degree 2"),
    ],
)
def test_errors_name_the_value(option, word):
    with pytest.raises(ValueError, match=word):
        rasterization_cpu(**{**gaussians(3), **camera(8, 8), **option})


def outputs(seed=0, n=3000):
    inputs = leaves(gaussians(n, seed=seed))
    image, alpha, meta = rasterization(**inputs, **camera(150, 90), packed=False, absgrad=True)
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    ((image * weights).sum() + alpha.square().sum()).backward()
    return [image.detach(), alpha.detach(), meta["means2d"].absgrad, *(tensor.grad for tensor in inputs.values())]


def test_results_do_not_depend_on_threads_or_runs(threads):
    threads(1)
    expected = outputs()
    for count in (1, 2, 3, 7):
        threads(count)
        for ours, theirs in zip(outputs(), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_two_python_threads_at_once(threads):
    threads(2)
    expected = [outputs(seed) for seed in (0, 1)]
    results, errors = {}, []

    def work(seed):
        try:
            results[seed] = [outputs(seed) for _ in range(8)]
        except BaseException as error:
            errors.append(error)
            raise

    workers = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert not errors
    for seed in (0, 1):
        assert len(results[seed]) == 8
        for run in results[seed]:
            assert all(torch.equal(a, b) for a, b in zip(run, expected[seed], strict=True))


def test_an_exception_in_a_chunk_reaches_the_caller(threads):
    from harmonizer_ns.raster.threads import parallel_chunks

    threads(3)
    done = []

    def task(begin, end):
        if begin == 5:
            raise RuntimeError("chunk 5")
        done.append(begin)

    with pytest.raises(RuntimeError, match="chunk 5"):
        parallel_chunks(task, 10, 1)
    threads(2)
    parallel_chunks(lambda begin, end: done.append((begin, end)), 10, 3)
    assert {(0, 3), (3, 6), (6, 9), (9, 10)} <= set(done)


def test_ctrl_c_begins_no_further_chunk(threads):
    from harmonizer_ns.raster.threads import parallel_chunks

    threads(2)
    caller, done = threading.get_ident(), []

    def task(begin, end):
        if threading.get_ident() == caller:
            raise KeyboardInterrupt
        time.sleep(0.01)
        done.append(begin)

    with pytest.raises(KeyboardInterrupt):
        parallel_chunks(task, 1000, 1)
    assert len(done) < 500


def test_thread_count_is_validated():
    with pytest.raises(ValueError, match="got 0"):
        set_num_threads(0)


def peak_bytes(n, width, height, scale=1.0):
    inputs = gaussians(n, seed=1)
    inputs["scales"] *= scale
    inputs = leaves(inputs)
    tracemalloc.start()
    image, _, meta = rasterization(**inputs, **camera(width, height), packed=False)
    image.sum().backward()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak, len(meta["flatten_ids"])


def test_memory_is_linear_in_gaussians_hits_and_pixels():
    peak_bytes(10, 16, 16)
    for n, width, height, scale in [(1000, 64, 48, 1.0), (8000, 64, 48, 1.0), (1000, 512, 384, 1.0), (1000, 64, 48, 8)]:
        peak, hits = peak_bytes(n, width, height, scale)
        assert peak < 400 * n + 120 * hits + 80 * width * height + 500_000, (n, width, height, scale, peak, hits)


def test_gsplat_gets_other_devices(monkeypatch):
    import gsplat

    calls = []
    monkeypatch.setattr(gsplat, "rasterization", lambda means, *args, **kwargs: calls.append((means, args, kwargs)))
    means = torch.empty(2, 3, device="meta")
    rasterization(means, 1, sh_degree=3)
    assert calls == [(means, (1,), {"sh_degree": 3})]
