# SPDX-License-Identifier: Apache-2.0
import numpy as np
import torch

from harmonizer_ns.stereo.planes import fit_planes


def slope(height=20, width=24):
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return 0.5 + 0.003 * xs - 0.002 * ys


def even(image):
    return torch.full_like(image, 0.5)


def test_a_plane_stays_and_is_known():
    plane = slope()
    found, known = fit_planes(plane, torch.ones_like(plane), even(plane))
    assert torch.allclose(found, plane, atol=2e-4)
    assert known.min() > 0.5
    assert known[10, 12] > 0.85


def test_noise_goes_and_tells_that_less_is_known():
    plane, generator = slope(), torch.Generator().manual_seed(0)
    noisy = plane * (1 + 0.005 * torch.randn(plane.shape, generator=generator))
    found, known = fit_planes(noisy, torch.ones_like(plane), even(plane))
    assert (found - plane).std() < 0.4 * (noisy - plane).std()
    assert known.mean() < fit_planes(plane, torch.ones_like(plane), even(plane))[1].mean() - 0.1


def test_a_jump_stays_sharp():
    step = torch.full((20, 24), 0.5)
    step[:, 12:] = 0.8
    assert torch.allclose(fit_planes(step, torch.ones_like(step), even(step))[0], step, atol=1e-4)


def test_pixels_without_weight_take_the_plane_of_their_colour():
    plane = slope()
    plane[:, 12:] += 0.01
    grey = even(plane)
    grey[:, 12:] = 0.9
    weight = torch.ones_like(plane)
    weight[:, 11] = 0
    wrong = plane.clone()
    wrong[:, 11] += 0.006
    found, _ = fit_planes(wrong, weight, grey)
    assert (found - plane)[2:-2, 11].abs().max() < 1e-3


def test_nothing_is_known_where_nothing_counts():
    plane = slope()
    found, known = fit_planes(plane, torch.zeros_like(plane), even(plane))
    assert not known.any()
    assert torch.equal(found, plane)


def test_the_first_plane_is_that_of_weighted_least_squares():
    generator = torch.Generator().manual_seed(1)
    inverse = slope(7, 7) * (1 + 0.002 * torch.randn(7, 7, generator=generator))
    weight, grey = torch.rand(7, 7, generator=generator), torch.rand(7, 7, generator=generator)
    found, _ = fit_planes(inverse, weight, grey)
    assert abs(found[3, 3].item() - slow_plane(inverse.double(), weight.double(), grey.double())) < 2e-5


def slow_plane(inverse, weight, grey):
    """Fit the plane of the middle pixel of 7x7, twice."""
    ys, xs = np.mgrid[-3:4, -3:4]
    plane = np.array([inverse[3, 3].item(), 0.0, 0.0])
    terms = np.stack([np.ones(49), xs.ravel(), ys.ravel()], axis=1)
    for limit in (0.06, 0.02):
        distance = (inverse.numpy().ravel() - terms @ plane) / (limit * plane[0])
        count = weight.numpy().ravel() * np.exp(-np.abs(grey.numpy() - grey[3, 3].item()).ravel() / 0.05)
        count *= np.clip(1 - distance**2, 0, None) ** 2
        count /= count.sum()
        mean = count @ terms
        spread = (terms - mean).T @ (count[:, None] * (terms - mean)) + np.diag([1, 0.01, 0.01])
        slopes = np.linalg.solve(spread, (terms - mean).T @ (count * inverse.numpy().ravel()))[1:]
        plane = np.array([count @ inverse.numpy().ravel() - slopes @ mean[1:], *slopes])
    return plane[0]
