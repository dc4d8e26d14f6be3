# SPDX-License-Identifier: Apache-2.0
"""The search for each pixel's depth on a CPU: matching cost, semi-global aggregation, the plane that wins.

Notation: pixel ``p = (x, y, 1)`` of a photo with inverse depth ``d`` lies in a source photo at ``q ~ A p + b d``.
Plane ``k`` gives each pixel the inverse depth ``d_k(p) = base(p) + k step``: a constant ``base`` makes planes, a rough
depth map makes sheets that run along the surface, so that windows need not be parallel to the image.

Kernels are serial and release the GIL; photos are spread over threads. Costs are whole numbers, also where they are
kept as float32, so that their sums are exact in any order.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor
from torch.nn.functional import pad

from harmonizer_ns.stereo.views import View, relation

F = np.float32
RADIUS = 1
"""Windows are 3x3: larger ones widen what stands in front, and aggregation steadies small ones."""
SIDE = 2 * RADIUS + 1
SCALE = 1024
"""Cost of a pixel that does not match at all."""
NOISE = 2e-5
"""Variance of grey that is taken for noise: (1.1 / 255)^2."""
SMALL, LARGE = 160.0, 3000.0
"""Prices of a step by one plane and of a jump, on every path."""
CONTRAST = 20.0
"""A jump costs half where the grey changes by 1/20."""
FAR = F(1e6)

KERNEL = {"error_model": "numpy", "nogil": True, "fastmath": {"contract", "reassoc", "nsz", "arcp"}, "cache": True}


@njit(**KERNEL)
def _window_sums(first, second, sums, column):
    """Sum the product of two padded images over windows."""
    height, width = sums.shape
    for y in range(height):
        for x in range(len(column)):
            total = F(0)
            for r in range(SIDE):
                total += first[y + r, x] * second[y + r, x]
            column[x] = total
        for x in range(width):
            total = F(0)
            for r in range(SIDE):
                total += column[x + r]
            sums[y, x] = total


@njit(**KERNEL)
def _project_row(y, base, shift, matrix, offset, us, vs):
    """Find where a row's pixels fall, in source pixels counted from the centre of the first; far away where behind."""
    fy = F(y) + F(0.5)
    row_x, row_y = matrix[0, 1] * fy + matrix[0, 2], matrix[1, 1] * fy + matrix[1, 2]
    row_z = matrix[2, 1] * fy + matrix[2, 2]
    slope_x, slope_y, slope_z = matrix[0, 0], matrix[1, 0], matrix[2, 0]
    offset_x, offset_y, offset_z = offset[0], offset[1], offset[2]
    for x in range(len(base)):
        fx = F(x) + F(0.5)
        inverse = max(base[x] + shift, F(0))
        z = slope_z * fx + row_z + offset_z * inverse
        scale = F(1) / max(z, F(1e-6))
        us[x] = (slope_x * fx + row_x + offset_x * inverse) * scale - F(0.5)
        vs[x] = (slope_y * fx + row_y + offset_y * inverse) * scale - F(0.5) - FAR * F(z <= F(1e-6))


@njit(**KERNEL)
def _look_up_row(us, vs, source, rows, columns, mask, warped, seen):
    """Look the source up bilinearly, edges repeated, where the mask counts; ``seen`` is 1 inside the source."""
    right, bottom = F(columns) - F(0.5), F(rows) - F(0.5)
    for x in range(len(seen)):
        u, v = us[x], vs[x]
        seen[x] = F(0)
        warped[x] = F(0)
        if u >= F(-0.5) and v >= F(-0.5) and u <= right and v <= bottom:
            u, v = max(u, F(0)), max(v, F(0))
            i, j = min(np.int32(u), columns - 2), min(np.int32(v), rows - 2)
            du, dv = min(u - F(i), F(1)), min(v - F(j), F(1))
            above = source[j, i] + du * (source[j, i + 1] - source[j, i])
            below = source[j + 1, i] + du * (source[j + 1, i + 1] - source[j + 1, i])
            seen[x] = F(1)
            warped[x] = (above + dv * (below - above)) * mask[x]


@njit(**KERNEL)
def _rate_row(total, squares, product, share, mean, sharp, seen, best, second):
    """Keep the two best correlations of every pixel of a row."""
    for x in range(len(best)):
        average = total[x] * share[x]
        spread = max(squares[x] * share[x] - average * average, F(0)) + F(NOISE)
        score = seen[x] * (product[x] * share[x] - average * mean[x]) * sharp[x] / np.sqrt(spread)
        second[x] = max(second[x], min(best[x], score))
        best[x] = max(best[x], score)


@njit(**KERNEL)
def matching_cost(grey, mask, base, step, first, sources, sizes, matrices, offsets, cost):
    """Fill ``cost`` (h w planes) with ``1024 (1 - s)``; ``s`` is the mean of the two best sources' correlations.

    Correlation is ZNCC over a window of the pixels that count, with noise added to both variances, so that flat places
    match nothing. A source that does not show the pixel, or is against it, counts 0.

    Args:
        grey: of the photo, padded with zeros; 0 where it is masked.
        mask: 1 where the photo counts, padded with zeros.
        base: inverse depth of plane 0.
        step: inverse depth between planes.
        first: number of the first plane; may be negative.
        sources: n h2 w2, grey.
        sizes: n 2, their true heights and widths.
        matrices: n 3 3, ``A``.
        offsets: n 3, ``b``.
        cost: filled.
    """
    height, width, count = cost.shape
    warped, shape = np.zeros_like(grey), (height, width)
    us, vs, column = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(grey.shape[1], np.float32)
    share, mean, sharp = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.float32)
    seen, best, second = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.float32)
    total, squares, product = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.float32)
    _window_sums(mask, mask, share, column)
    _window_sums(grey, mask, mean, column)
    _window_sums(grey, grey, squares, column)
    for y in range(height):
        for x in range(width):
            share[y, x] = F(1) / max(share[y, x], F(1))
            mean[y, x] *= share[y, x]
            spread = max(squares[y, x] * share[y, x] - mean[y, x] * mean[y, x], F(0)) + F(NOISE)
            sharp[y, x] = F(1) / np.sqrt(spread)
    among = F(0.5) if len(sources) > 1 else F(1)
    inner = slice(RADIUS, RADIUS + width)
    for k in range(count):
        best[:], second[:] = F(0), F(0)
        for s in range(len(sources)):
            shift, rows, columns = F(first + k) * step, np.int32(sizes[s, 0]), np.int32(sizes[s, 1])
            for y in range(height):
                _project_row(y, base[y], shift, matrices[s], offsets[s], us, vs)
                r = y + RADIUS
                _look_up_row(us, vs, sources[s], rows, columns, mask[r, inner], warped[r, inner], seen[y])
            _window_sums(warped, mask, total, column)
            _window_sums(warped, warped, squares, column)
            _window_sums(warped, grey, product, column)
            for y in range(height):
                _rate_row(
                    total[y], squares[y], product[y], share[y], mean[y], sharp[y], seen[y], best[y], second[y]
                )  # fmt: skip
        for y in range(height):
            for x in range(width):
                score = among * (best[y, x] + second[y, x])
                cost[y, x, k] = np.uint16(F(SCALE) * (F(1) - min(score, F(1))) + F(0.5))


@njit(**KERNEL)
def _extend(before, cost, large, after, total):
    """Go one pixel along a path (Hirschmueller 2008, equation 13); the least value stands behind the planes."""
    count = len(cost)
    least, small = before[count + 2], F(SMALL)
    for k in range(count):
        near = min(before[k], before[k + 2]) + small
        path = min(min(before[k + 1], near), least + large) - least + F(cost[k])
        after[k + 1] = path
        total[k] += path
    least = FAR
    for k in range(count):
        least = min(least, after[k + 1])
    after[count + 2] = least


@njit(**KERNEL)
def _jump(a, b):
    """Price a jump in depth lower where the grey changes, in whole numbers, and never below a step."""
    return max(np.floor(F(LARGE) / (F(1) + F(CONTRAST) * abs(a - b))), F(SMALL))


@njit(**KERNEL)
def aggregate(cost, grey, total):
    """Add up the costs of the best paths that come from eight directions.

    Args:
        cost: h w planes.
        grey: in [0, 1], padded.
        total: h w planes, zeros; filled with whole numbers.
    """
    height, width, count = cost.shape
    along, across = np.empty((2, count + 3), F), np.empty((2, 3, width + 2, count + 3), F)
    for way in range(2):
        step = 1 - 2 * way
        across[:] = F(0)
        across[..., 0], across[..., count + 1] = FAR, FAR
        for row in range(height):
            y = row if way == 0 else height - 1 - row
            now, then = row & 1, 1 - (row & 1)
            along[:] = F(0)
            along[:, 0], along[:, count + 1] = FAR, FAR
            for column in range(width):
                x = column if way == 0 else width - 1 - column
                here = grey[y + RADIUS, x + RADIUS]
                price = _jump(here, grey[y + RADIUS, x + RADIUS - step])
                _extend(along[1 - (column & 1)], cost[y, x], price, along[column & 1], total[y, x])
                for side in range(3):
                    price = _jump(here, grey[y + RADIUS - step, x + RADIUS + side - 1])
                    _extend(across[then, side, x + side], cost[y, x], price, across[now, side, x + 1], total[y, x])


@njit(**KERNEL)
def choose_plane(cost, total, plane, score):
    """Find the plane of least total cost, refined by a parabola through its neighbours', and the correlation there."""
    height, width, count = cost.shape
    for y in range(height):
        for x in range(width):
            best = 0
            for k in range(1, count):
                if total[y, x, k] < total[y, x, best]:
                    best = k
            k = min(max(best, 1), count - 2)
            a, b, c = total[y, x, k - 1], total[y, x, k], total[y, x, k + 1]
            bend = max(a - F(2) * b + c, F(1))
            plane[y, x] = F(k) + min(max((a - c) / (F(2) * bend), F(-1)), F(1))
            score[y, x] = F(1) - F(cost[y, x, best]) / F(SCALE)


def search(
    view: View, others: list[View], base: Float[Tensor, "h w"], step: float, first: int, count: int
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Search the planes ``first`` to ``first + count - 1`` for the inverse depth of every pixel.

    Args:
        view: the photo.
        others: its sources.
        base: inverse depth of plane 0.
        step: inverse depth between planes.
        first: number of the first plane.
        count: how many planes, at least 3.

    Returns:
        inverse depth, at least 0, and the correlation with the best sources there, in [0, 1].
    """
    related = [relation(view.camera, other.camera) for other in others]
    matrices, offsets = (np.stack([part.numpy() for part in parts]) for parts in zip(*related, strict=True))
    sizes = np.array([other.grey.shape for other in others], np.int32)
    sources = np.zeros((len(others), *sizes.max(axis=0)), F)
    for i, other in enumerate(others):
        sources[i, : other.camera.height, : other.camera.width] = other.grey.float().numpy()
    grey = view.grey.float()
    mask = torch.ones_like(grey) if view.mask is None else view.mask.float()
    around = (RADIUS,) * 4
    cost = np.empty((*grey.shape, count), np.uint16)
    matching_cost(
        pad(grey * mask, around).numpy(), pad(mask, around).numpy(), base.numpy(), F(step), first,
        sources, sizes, matrices.astype(F), offsets.astype(F), cost,
    )  # fmt: skip
    total = np.zeros(cost.shape, F)
    aggregate(cost, pad(grey[None, None], around, mode="replicate")[0, 0].numpy(), total)
    plane, score = np.empty(grey.shape, F), np.empty(grey.shape, F)
    choose_plane(cost, total, plane, score)
    return (base + (torch.from_numpy(plane) + first) * step).clamp(min=0), torch.from_numpy(score)
