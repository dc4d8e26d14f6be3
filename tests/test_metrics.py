# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from harmonizer_ns.metrics import better_half, good_half_psnr, psnr, ssim, ssim_map


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, 24, 31, generator=generator)
    return (target + 0.2 * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


def slow_ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """One window at a time, in float64: ``c h w`` -> ``c h-10 w-10``."""
    taps = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    out = np.zeros((x.shape[0], x.shape[1] - 10, x.shape[2] - 10))
    for c, i, j in np.ndindex(*out.shape):
        a, b = (v[c, i : i + 11, j : j + 11] for v in (x, y))
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
        cov = (window * (a - mean_a) * (b - mean_b)).sum()
        out[c, i, j] = (2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
        out[c, i, j] /= (mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)
    return out


def test_psnr_is_the_textbook_formula(images):
    x, y = (v.double().numpy() for v in images)
    expected = [10 * math.log10(1 / ((a - b) ** 2).mean()) for a, b in zip(x, y, strict=True)]
    assert psnr(*images).tolist() == pytest.approx(expected, abs=1e-4)


def test_equal_images_score_100_db_not_infinity(images):
    assert psnr(images[1], images[1]).tolist() == pytest.approx([100, 100])


def test_masked_psnr_ignores_what_is_masked_and_weighs_the_rest(images):
    x, y = images
    mask = torch.zeros(2, 1, 24, 31)
    mask[..., :10], mask[..., 10:20] = 1.0, 0.5
    broken = x.clone()
    broken[..., 20:] = 1 - broken[..., 20:]
    assert torch.equal(psnr(broken, y, mask), psnr(x, y, mask))
    error = ((x - y) ** 2).mean(1).double()
    expected = (error[..., :10].sum((1, 2)) + 0.5 * error[..., 10:20].sum((1, 2))) / (24 * 15)
    assert psnr(x, y, mask).tolist() == pytest.approx((-10 * expected.log10()).tolist(), abs=1e-4)


def test_ssim_agrees_with_one_window_at_a_time(images):
    expected = np.stack([slow_ssim(a, b) for a, b in zip(*(v.double().numpy() for v in images), strict=True)])
    assert np.abs(ssim_map(*images).numpy() - expected).max() < 1e-4
    assert ssim(*images).tolist() == pytest.approx(expected.mean((1, 2, 3)).tolist(), abs=1e-5)


def test_ssim_agrees_with_scikit_image(images):
    skimage = pytest.importorskip("skimage.metrics")
    for i, value in enumerate(ssim(*images).tolist()):
        a, b = (v[i].permute(1, 2, 0).double().numpy() for v in images)
        expected = skimage.structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, channel_axis=2
        )
        assert value == pytest.approx(expected, abs=1e-4)


def test_masked_ssim_is_the_average_of_the_map_under_the_mask(images):
    mask = torch.zeros(2, 1, 24, 31)
    mask[..., 8:12, 9:20] = 1
    expected = ssim_map(*images)[..., 3:7, 4:15].mean((1, 2, 3))
    assert ssim(*images, mask).tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_ssim_has_gradients(images):
    x = images[0].clone().requires_grad_()
    ssim(x, images[1]).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_good_half_sees_only_the_pixels_that_were_good():
    target = torch.full((1, 3, 4, 8), 0.5)
    render = target + torch.tensor([0.01, 0.2]).repeat_interleave(4)  # left half good, right half bad
    repaired_right = torch.cat([render[..., :4], target[..., 4:]], dim=-1)
    assert torch.equal(better_half(render, target)[0, 0, 0], torch.arange(8) < 4)
    before, after = good_half_psnr(render, repaired_right, target)
    assert before.item() == pytest.approx(40, abs=1e-3)
    assert after.item() == pytest.approx(40, abs=1e-3)
    spoiled_left = torch.cat([target[..., :4] + 0.1, render[..., 4:]], dim=-1)
    assert good_half_psnr(render, spoiled_left, target).after.item() == pytest.approx(20, abs=1e-3)


def test_good_half_exists_even_where_most_pixels_are_perfect():
    target = torch.zeros(1, 3, 4, 4)
    render = target.clone()
    render[..., 0, 0] = 1
    assert good_half_psnr(render, render, target).before.item() == pytest.approx(100)


def test_what_does_not_fit_is_refused(images):
    x, y = images
    with pytest.raises(ValueError, match="one shape"):
        psnr(x, y[..., :-1])
    with pytest.raises(ValueError, match="mask is empty for image 1"):
        psnr(x, y, torch.tensor([1.0, 0.0])[:, None, None, None].expand(2, 1, 24, 31))
    with pytest.raises(ValueError, match="mask has shape"):
        psnr(x, y, torch.ones(2, 1, 3, 3))
    with pytest.raises(ValueError, match="11x11"):
        ssim(x[..., :8], y[..., :8])
