# SPDX-License-Identifier: Apache-2.0
"""Distant light shades surfaces in spherical harmonics of order 2 (Ramamoorthi and Hanrahan 2001).

A light is nine RGB coefficients ``L_lm`` of its radiance over directions, in world axes, ordered ``(l, m)`` = (0,0),
(1,-1), (1,0), (1,1), (2,-2) ... (2,2). A white diffuse surface of unit normal ``n`` receives the irradiance
``E(n) = sum_lm A_l L_lm Y_lm(n)`` with ``A = pi, 2 pi / 3, pi / 4`` for ``l`` = 0, 1, 2 (their equation 8).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.images import local_mean
from harmonizer_ns.types import Cameras
from harmonizer_ns.warp import pixel_grid

_TRANSFER = (math.pi, *[2 * math.pi / 3] * 3, *[math.pi / 4] * 5)
LUMINANCE = (0.2126, 0.7152, 0.0722)
_TAPS = 11
"""Side of the window that a normal is fitted in, in samples."""


def to_linear(image: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Turn sRGB into linear light (IEC 61966-2-1)."""
    return torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)


def to_srgb(light: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Turn linear light into sRGB in [0, 1]."""
    light = light.clamp(0, 1)
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp(min=1e-8) ** (1 / 2.4) - 0.055)


def luminance(light: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
    """Compute the luminance of linear RGB (Rec. 709)."""
    return (light * light.new_tensor(LUMINANCE)).sum(-1, keepdim=True)


def harmonics(directions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 9"]:
    """Evaluate the real spherical harmonics up to order 2 at unit directions (their equation 3)."""
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, 0.282095)]
    values += [0.488603 * y, 0.488603 * z, 0.488603 * x]
    values += [1.092548 * x * y, 1.092548 * y * z, 0.315392 * (3 * z * z - 1), 1.092548 * x * z]
    return torch.stack([*values, 0.546274 * (x * x - y * y)], -1)


def directional(direction: Float[Tensor, " 3"], color: Float[Tensor, " 3"]) -> Float[Tensor, "9 3"]:
    """Make a distant point light *from* a unit direction: ``color`` is the irradiance of a surface that faces it."""
    return harmonics(direction)[:, None] * color


def ambient(color: Float[Tensor, " 3"]) -> Float[Tensor, "9 3"]:
    """Make light of equal radiance from everywhere, of irradiance ``color``."""
    light = torch.zeros(9, 3)
    light[0] = color / (math.pi * 0.282095)
    return light


def irradiance(light: Float[Tensor, "9 3"], normals: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Compute the light that surfaces of these unit normals receive; slightly below 0 where order 2 rings."""
    return harmonics(normals) @ (light * light.new_tensor(_TRANSFER)[:, None])


def estimate_light(
    linear: Float[Tensor, "p 3"], normals: Float[Tensor, "p 3"], ridge: float = 0.05
) -> Float[Tensor, "9 3"]:
    """Find the grey light that explains pixels' luminance best if all surfaces were equally bright.

    Least squares over ``luminance = E(n)``; ``ridge`` (in mean squares of the pixels' harmonics) draws all but the
    constant to 0, since what is bright by its paint would otherwise count as lit. Colour is paint's, too.
    """
    basis = harmonics(normals).double() * torch.tensor(_TRANSFER)
    penalty = torch.full((9,), ridge * len(basis), dtype=torch.float64)
    penalty[0] = 0
    light = torch.linalg.solve(basis.T @ basis + penalty.diag(), basis.T @ luminance(linear).double())
    return light.float().expand(9, 3)


def gain(
    new: Float[Tensor, "9 3"], old: Float[Tensor, "9 3"], normals: Float[Tensor, "*batch 3"], bound: float
) -> Float[Tensor, "*batch 3"]:
    """Compute the ratio image ``E_new(n) / E_old(n)``, within ``[1 / bound, bound]``; exactly 1 for equal lights.

    Both irradiances are kept above a fifth of the old one's mean, so that ringing and deep shade divide safely.
    """
    first, last = irradiance(old, normals), irradiance(new, normals)
    floor = 0.2 * math.pi * 0.282095 * old[0]
    return (last.maximum(floor) / first.maximum(floor)).clamp(1 / bound, bound)


def depth_normals(
    depth: Float[Tensor, "n 1 h w"], cameras: Cameras, tolerance: float = 0.05
) -> Float[Tensor, "n h w 3"]:
    """Find unit normals in world axes, towards the camera, of the surfaces that a depth map shows.

    A plane ``m . X = 1`` seen by a pinhole camera has ``1 / z = m . (u, v, 1)`` at normalised pixel coordinates
    ``(u, v)``: every pixel gets the plane that fits the inverse depth around it best. Neighbours whose depth differs
    by more than about ``tolerance`` (relative) count little, so planes do not lean over edges. Pixels without depth
    face the camera's plane.

    Args:
        depth: z-depth, 0 where unknown.
        cameras: one for each map, of its size.
        tolerance: relative difference of depth at which a neighbour's weight has fallen to 1/e.
    """
    maps = [_normals(one[None], camera, tolerance) for one, camera in zip(depth, cameras, strict=True)]
    return torch.einsum("nij,nhwj->nhwi", cameras.camera_to_world[:, :3, :3], torch.cat(maps))


def smooth_normals(
    normals: Float[Tensor, "n h w 3"], masks: Float[Tensor, "n 1 h w"], side: int
) -> Float[Tensor, "n h w 3"]:
    """Average unit normals over a window of odd ``side`` within the masks: the depth of plain surfaces is bumpy."""
    weighted = local_mean(masks * normals.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
    smoothed = F.normalize(weighted, dim=-1)
    return torch.where(masks[:, 0, ..., None] > 0, smoothed, normals)


def _normals(depth: Float[Tensor, "1 1 h w"], camera: Cameras, tolerance: float) -> Float[Tensor, "1 h w 3"]:
    """Find the normals in the camera's axes."""
    step = max(1, round(camera.width / 120))
    inverse = torch.where(depth > 0, 1 / depth.clamp(min=1e-12), 0.0)
    # each pixel's neighbours, a step apart, and 0 outside the image: taps p
    around = F.unfold(inverse, _TAPS, dilation=step, padding=step * (_TAPS // 2))[0]
    center = inverse.flatten().clamp(min=1e-12)
    # in units of the centre's inverse depth and of the window's half side, which keeps the system well scaled
    change = around / center - 1
    weights = (around > 0) * torch.exp(-((change / tolerance).square()))
    basis = _offsets(depth)
    matrix = torch.einsum("tp,ti,tj->pij", weights, basis, basis) + 1e-3 * torch.eye(3)
    slope = torch.linalg.solve(matrix, torch.einsum("tp,ti,tp->pi", weights, basis, change))
    reach = step * (_TAPS // 2) / camera.intrinsics[0].diagonal()[:2]
    plane = slope[:, :2] / reach
    rays = _rays(camera)
    facing = -torch.cat([plane, 1 + slope[:, 2:] - (plane * rays).sum(-1, keepdim=True)], -1)
    facing = torch.where(depth.flatten()[:, None] > 0, facing, torch.tensor([0.0, 0.0, -1.0]))
    return F.normalize(facing, dim=-1).view(1, camera.height, camera.width, 3)


def _offsets(like: Tensor) -> Float[Tensor, "taps 3"]:
    """List the offsets of a window's samples from its centre, in [-1, 1], each with a 1."""
    line = torch.linspace(-1, 1, _TAPS, device=like.device)
    ys, xs = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([xs, ys, torch.ones_like(xs)], -1).flatten(0, 1)


def _rays(camera: Cameras) -> Float[Tensor, "p 2"]:
    """Compute the normalised coordinates ``((x - cx) / fx, (y - cy) / fy)`` of the pixels."""
    intrinsics = camera.intrinsics[0]
    pixels = pixel_grid(camera.width, camera.height, intrinsics.device).flatten(0, 1)
    return (pixels - intrinsics[:2, 2]) / intrinsics.diagonal()[:2]
