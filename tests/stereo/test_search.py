# SPDX-License-Identifier: Apache-2.0
"""The kernels against slow and plain versions of themselves."""

import numpy as np
import torch
from solids import around

from harmonizer_ns.stereo import search_numba, search_torch
from harmonizer_ns.stereo.search_numba import CONTRAST, LARGE, NOISE, RADIUS, SCALE, SMALL
from harmonizer_ns.stereo.views import View, pyramid, relation


def slow_cost(view, others, base, step, first, count):
    height, width = view.grey.shape
    grey, mask = view.grey.double().numpy(), view.mask.numpy()
    cost = np.zeros((height, width, count))
    for k in range(count):
        scores = [slow_scores(grey, mask, view.camera, other, base.numpy() + (first + k) * step) for other in others]
        best = np.sort(np.maximum(scores, 0), axis=0)[-2:].mean(axis=0)
        cost[..., k] = SCALE * (1 - best)
    return cost


def slow_scores(grey, mask, camera, other, inverse):
    warped, seen = slow_warp(camera, other, inverse)
    scores = np.zeros_like(grey)
    for y, x in np.ndindex(*grey.shape):
        window = np.s_[max(0, y - RADIUS) : y + RADIUS + 1, max(0, x - RADIUS) : x + RADIUS + 1]
        a, b = grey[window][mask[window]], warped[window][mask[window]]
        if seen[y, x] and len(a):
            scores[y, x] = np.mean((a - a.mean()) * (b - b.mean())) / np.sqrt((a.var() + NOISE) * (b.var() + NOISE))
    return scores


def slow_warp(camera, other, inverse):
    matrix, offset = (part.double().numpy() for part in relation(camera, other.camera))
    source, (rows, columns) = other.grey.double().numpy(), other.grey.shape
    warped, seen = np.zeros_like(inverse, dtype=float), np.zeros(inverse.shape, bool)
    for y, x in np.ndindex(*inverse.shape):
        q = matrix @ [x + 0.5, y + 0.5, 1] + offset * max(inverse[y, x], 0)
        u, v = q[:2] / q[2]
        if q[2] > 1e-6 and 0 <= u <= columns and 0 <= v <= rows:
            seen[y, x] = True
            u, v = np.clip(u - 0.5, 0, columns - 1), np.clip(v - 0.5, 0, rows - 1)
            i, j = min(int(u), columns - 2), min(int(v), rows - 2)
            corners = source[j : j + 2, i : i + 2]
            warped[y, x] = [1 - (v - j), v - j] @ corners @ [1 - (u - i), u - i]
    return warped, seen


def slow_paths(cost, grey):
    height, width, count = cost.shape
    total = np.zeros(cost.shape)
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
        path = np.zeros(cost.shape)
        for y in range(height)[:: dy or 1]:
            for x in range(width)[:: dx or 1]:
                path[y, x] = cost[y, x]
                if 0 <= y - dy < height and 0 <= x - dx < width:
                    before = path[y - dy, x - dx]
                    price = max(SMALL, LARGE // (1 + CONTRAST * abs(grey[y, x] - grey[y - dy, x - dx])))
                    for k in range(count):
                        near = [before[i] + SMALL for i in (k - 1, k + 1) if 0 <= i < count]
                        path[y, x, k] += min(before[k], *near, before.min() + price) - before.min()
        total += path
    return total


def small_views():
    generator = torch.Generator().manual_seed(0)
    cameras = around(4, width=13, height=11)
    greys = [torch.rand(11, 13, generator=generator).half() for _ in cameras]
    mask = torch.rand(11, 13, generator=generator) > 0.2
    return [View(grey, mask, camera) for grey, camera in zip(greys, cameras, strict=True)]


def test_the_matching_cost_is_that_of_the_two_best_correlations():
    view, *others = small_views()
    base = torch.full((11, 13), 0.3)
    expected = slow_cost(view, others, base, 0.05, -1, 4)
    assert expected.min() < 0.6 * SCALE
    by_torch = search_torch.matching_cost(view, others, base, 0.05, -1, 4).numpy()
    assert np.abs(by_torch - expected).max() < 2
    mask, around_it = view.mask.float(), (RADIUS,) * 4
    related = [relation(view.camera, other.camera) for other in others]
    found = np.empty((11, 13, 4), np.uint16)
    search_numba.matching_cost(
        torch.nn.functional.pad(view.grey.float() * mask, around_it).numpy(),
        torch.nn.functional.pad(mask, around_it).numpy(),
        base.numpy(), np.float32(0.05), -1, np.stack([other.grey.float().numpy() for other in others]),
        np.array([[11, 13]] * 3, np.int32), np.stack([a.numpy() for a, _ in related]),
        np.stack([b.numpy() for _, b in related]), found,
    )  # fmt: skip
    assert np.abs(found - expected).max() < 2


def test_aggregation_adds_the_best_paths_from_eight_directions():
    rng = np.random.default_rng(0)
    cost, grey = rng.integers(0, SCALE, (6, 7, 5)).astype(np.uint16), rng.random((6, 7)).astype(np.float32)
    expected = slow_paths(cost.astype(float), grey)
    found = np.zeros(cost.shape, np.float32)
    search_numba.aggregate(cost, np.pad(grey, RADIUS, mode="edge"), found)
    assert np.abs(found - expected).max() <= 8  # prices are floored in single precision
    by_torch = search_torch.aggregate(torch.from_numpy(cost.astype(np.float32)), torch.from_numpy(grey)).numpy()
    assert np.abs(by_torch - expected).max() <= 8


def test_the_plane_is_refined_by_a_parabola():
    total = 7 * (np.arange(6, dtype=np.float32) - 2.3) ** 2 + np.zeros((2, 2, 1), np.float32)
    plane, score = np.empty((2, 2), np.float32), np.empty((2, 2), np.float32)
    search_numba.choose_plane(np.full(total.shape, SCALE // 4, np.uint16), total, plane, score)
    by_torch = search_torch.choose_plane(torch.full(total.shape, SCALE / 4), torch.from_numpy(total))
    for found, other in ((plane, score), by_torch):
        assert np.allclose(found, 2.3, atol=1e-3)
        assert np.allclose(other, 0.75)


def test_both_searches_find_the_same(photos):
    views = [pyramid(photos, i, 96, 1)[0] for i in range(4)]
    base = torch.full((72, 96), 0.2)
    inverse, score = search_numba.search(views[1], [views[0], *views[2:]], base, 0.006, 0, 40)
    other, other_score = search_torch.search(views[1], [views[0], *views[2:]], base, 0.006, 0, 40)
    assert ((inverse / other - 1).abs() < 1e-3).float().mean() > 0.995
    assert ((score - other_score).abs() < 5e-3).float().mean() > 0.995
