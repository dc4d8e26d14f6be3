# SPDX-License-Identifier: Apache-2.0
"""The search of `search_numba` in PyTorch, for GPUs; see there for what it does and for the notation."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.stereo.search_numba import CONTRAST, LARGE, NOISE, RADIUS, SCALE, SIDE, SMALL
from harmonizer_ns.stereo.views import View, carry, inside
from harmonizer_ns.warp import pixel_grid, sample

_CHUNK = 32
"""Planes that are matched at a time, which bounds memory."""


def search(
    view: View, others: list[View], base: Float[Tensor, "h w"], step: float, first: int, count: int
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Search for the inverse depth of every pixel, and its correlation; the arguments are `search_numba.search`'s."""
    cost = matching_cost(view, others, base, step, first, count)
    plane, score = choose_plane(cost, aggregate(cost, view.grey.float()))
    return (base + (plane + first) * step).clamp(min=0), score


def matching_cost(
    view: View, others: list[View], base: Float[Tensor, "h w"], step: float, first: int, count: int
) -> Float[Tensor, "h w planes"]:
    """Compute ``1024 (1 - s)`` in whole numbers, with ``s`` the mean of the two best sources' correlations."""
    mask = torch.ones_like(base) if view.mask is None else view.mask.float()
    grey = view.grey.float() * mask
    share = 1 / _window_means(mask[None]).clamp(min=1 / SIDE**2)
    mean = share * _window_means(grey[None])
    sharp = ((share * _window_means(grey[None] ** 2) - mean**2).clamp(min=0) + NOISE).rsqrt()
    grid = pixel_grid(view.camera.width, view.camera.height, base.device)
    numbers = torch.arange(first, first + count, device=base.device)
    costs = []
    for chunk in numbers.split(_CHUNK):
        inverse, scores = (base + chunk[:, None, None] * step).clamp(min=0), []
        for other in others:
            pixels, z = carry(grid, inverse, view.camera, other.camera)
            seen = inside(pixels, other.camera) & ((z > 0) | (inverse <= 0))
            image = other.grey.float().expand(len(chunk), 1, -1, -1)
            warped = sample(image, torch.where(seen[..., None], pixels, 0.0))[:, 0] * mask * seen
            average, square, product = (share * _window_means(part) for part in (warped, warped**2, warped * grey))
            spread = (square - average**2).clamp(min=0) + NOISE
            scores.append(seen * (product - average * mean) * sharp * spread.rsqrt())
        best = torch.stack(scores).clamp(min=0).topk(min(2, len(others)), dim=0).values.mean(0)
        costs.append((SCALE * (1 - best.clamp(max=1)) + 0.5).floor())
    return torch.cat(costs).permute(1, 2, 0)


def _window_means(images: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    return F.avg_pool2d(images[:, None], SIDE, 1, RADIUS)[:, 0]


def aggregate(cost: Float[Tensor, "h w planes"], grey: Float[Tensor, "h w"]) -> Float[Tensor, "h w planes"]:
    """Add up the costs of the best paths that come from eight directions."""
    down, up = _paths(cost, grey, (-1, 0, 1))
    right, left = _paths(cost.transpose(0, 1), grey.T, (0,))
    return down + up.flip(0) + (right + left.flip(0)).transpose(0, 1)


def _paths(
    cost: Float[Tensor, "h w planes"], grey: Float[Tensor, "h w"], sides: tuple[int, ...]
) -> Float[Tensor, "2 h w planes"]:
    """Add up the best paths from above, and on the image upside down: from the left (-1), straight (0), the right (1).

    ``before`` holds the row above with an empty pixel at either side, where paths begin, and a forbidden plane at
    either end.
    """
    (height, width, count), ways = cost.shape, len(sides)
    cost, grey = torch.stack([cost, cost.flip(0)]), torch.stack([grey, grey.flip(0)])
    around = F.pad(grey, (1, 1))
    above = torch.stack([around[:, :-1, 1 + side : 1 + side + width] for side in sides], dim=1)
    prices = (LARGE / (1 + CONTRAST * (grey[:, None, 1:] - above).abs())).floor().clamp(min=SMALL)[..., None]
    before = cost.new_zeros(2, ways, width + 2, count + 2)
    before[..., 0] = before[..., -1] = torch.inf
    total = torch.empty_like(cost)
    total[:, 0] = ways * cost[:, 0]
    before[:, :, 1:-1, 1:-1] = cost[:, None, 0]
    for y in range(1, height):
        row = torch.stack([before[:, i, 1 + side : 1 + side + width] for i, side in enumerate(sides)], dim=1)
        same = row[..., 1:-1]
        least = same.amin(dim=-1, keepdim=True)
        near = torch.minimum(row[..., :-2], row[..., 2:]) + SMALL
        path = torch.minimum(torch.minimum(same, near), least + prices[:, :, y - 1]) - least + cost[:, None, y]
        before[:, :, 1:-1, 1:-1] = path
        torch.sum(path, dim=1, out=total[:, y])
    return total


def choose_plane(
    cost: Float[Tensor, "h w planes"], total: Float[Tensor, "h w planes"]
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Find the plane of least total cost, refined by a parabola, and the correlation there."""
    best = total.argmin(dim=-1, keepdim=True)
    k = best.clamp(1, total.shape[-1] - 2)
    a, b, c = (total.gather(-1, k + i) for i in (-1, 0, 1))
    plane = k + ((a - c) / (2 * (a - 2 * b + c).clamp(min=1))).clamp(-1, 1)
    return plane[..., 0], 1 - cost.gather(-1, best)[..., 0] / SCALE
