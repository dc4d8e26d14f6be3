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


def search(
    view: View, others: list[View], base: Float[Tensor, "h w"], step: float, first: int, count: int
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Search for the inverse depth of every pixel, and its correlation; the arguments are `search_numba.search`'s."""
    cost = _matching_cost(view, others, base, step, first, count)
    grey = view.grey.float()
    total = torch.zeros_like(cost)
    for turned in (False, True):
        volume, image, result = (part.transpose(0, 1) if turned else part for part in (cost, grey, total))
        for flipped in (False, True):
            if flipped:
                volume, image, result = volume.flip(0), image.flip(0), result.flip(0)
            paths = _paths_down(volume, image, (0,) if turned else (-1, 0, 1))
            paths = paths.flip(0) if flipped else paths
            total += paths.transpose(0, 1) if turned else paths
    return _choose_plane(cost, total, base, step, first)


def _window_means(images: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    return F.avg_pool2d(images[:, None], SIDE, 1, RADIUS)[:, 0]


def _matching_cost(
    view: View, others: list[View], base: Float[Tensor, "h w"], step: float, first: int, count: int
) -> Float[Tensor, "h w planes"]:
    mask = torch.ones_like(base) if view.mask is None else view.mask.float()
    grey = view.grey.float() * mask
    share = 1 / _window_means(mask[None]).clamp(min=1 / SIDE**2)
    mean = share * _window_means(grey[None])
    sharp = ((share * _window_means(grey[None] ** 2) - mean**2).clamp(min=0) + NOISE).rsqrt()
    grid = pixel_grid(view.camera.width, view.camera.height, base.device)
    planes = []
    for k in range(first, first + count):
        inverse, scores = (base + k * step).clamp(min=0), []
        for other in others:
            pixels, z = carry(grid, inverse, view.camera, other.camera)
            seen = inside(pixels, other.camera) & ((z > 0) | (inverse <= 0))
            warped = sample(other.grey.float()[None, None], torch.where(seen[..., None], pixels, 0.0)[None])[0] * mask
            warped = warped * seen
            average, square, product = share * _window_means(torch.cat([warped, warped**2, warped * grey]))
            spread = (square - average**2).clamp(min=0) + NOISE
            scores.append(seen * (product - average * mean[0]) * sharp[0] * spread.rsqrt())
        best = torch.stack(scores).clamp(min=0).topk(min(2, len(others)), dim=0).values.mean(0)
        planes.append((SCALE * (1 - best.clamp(max=1)) + 0.5).floor())
    return torch.stack(planes, dim=-1)


def _paths_down(
    cost: Float[Tensor, "h w planes"], grey: Float[Tensor, "h w"], sides: tuple[int, ...]
) -> Float[Tensor, "h w planes"]:
    """Sum the costs of the best paths from above: from the upper left (-1), from above (0), from the upper right (1)."""
    height, width, count = cost.shape
    before, outside = cost.new_zeros(len(sides), width, count), torch.inf
    total = [len(sides) * cost[0]]
    path = cost[:1].expand(len(sides), -1, -1)
    for y in range(1, height):
        before = torch.stack([_shifted(path[i], side) for i, side in enumerate(sides)])
        above = torch.stack([_shifted(grey[y - 1, :, None], side)[:, 0] for side in sides])
        price = (LARGE / (1 + CONTRAST * (grey[y] - above).abs())).floor().clamp(min=SMALL)[..., None]
        least = before.min(dim=-1, keepdim=True).values
        near = torch.minimum(F.pad(before, (1, 0), value=outside)[..., :-1], F.pad(before, (0, 1), value=outside)[..., 1:])
        path = torch.minimum(torch.minimum(before, near + SMALL), least + price) - least + cost[y]
        total.append(path.sum(dim=0))
    return torch.stack(total)


def _shifted(row: Float[Tensor, "w k"], side: int) -> Float[Tensor, "w k"]:
    """Move a row so that each pixel finds its neighbour to that side; zeros, with which paths begin, come in."""
    if side == 0:
        return row
    return F.pad(row, (0, 0, 1, 0))[:-1] if side < 0 else F.pad(row, (0, 0, 0, 1))[1:]


def _choose_plane(
    cost: Float[Tensor, "h w planes"], total: Float[Tensor, "h w planes"], base: Float[Tensor, "h w"], step: float, first: int
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    best = total.argmin(dim=-1, keepdim=True)
    k = best.clamp(1, total.shape[-1] - 2)
    a, b, c = (total.gather(-1, k + i) for i in (-1, 0, 1))
    plane = k + ((a - c) / (2 * (a - 2 * b + c).clamp(min=1))).clamp(-1, 1)
    score = 1 - cost.gather(-1, best)[..., 0] / SCALE
    return (base + (plane[..., 0] + first) * step).clamp(min=0), score
