# SPDX-License-Identifier: Apache-2.0
"""Carry images from one camera to another through known depth.

Notation: a pixel ``p`` at z-depth ``z`` is the world point ``X = R (z K^-1 [p, 1]) + t`` with ``[R | t]`` the
camera-to-world transform (OpenCV axes, pixel centres at +0.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.types import Cameras, Frames

SURFACE_TOLERANCE = 0.03
"""Relative disagreement of depths that still counts as the very same surface."""

REFERENCE_TOLERANCE = 0.2
"""The same for photos that a network weighs. Wide, since repairs are wanted where the rendered depth is wrong, and a
displaced photo is still evidence there."""


MEDIAN_PIXELS = 1 << 14
"""A median of depth is that of a grid of at least so many pixels; it lies within a percent of that of all."""


@dataclass(frozen=True)
class Warped:
    """Images seen from another camera.

    Args:
        rgb: warped colours, 0 where the point is outside the source image or behind its camera.
        valid: visibility in [0, 1]: 0 outside the source image, behind its camera, where the target has no depth
            or where the source sees something nearer; falls smoothly with depth disagreement.
    """

    rgb: Float[Tensor, "n 3 h w"]
    valid: Float[Tensor, "n 1 h w"]


def pixel_grid(width: int, height: int, device: torch.device | str = "cpu") -> Float[Tensor, "h w 2"]:
    """Pixel centres ``(x, y)``; the top-left one is (0.5, 0.5)."""
    ys, xs = torch.meshgrid(
        torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij"
    )
    return torch.stack([xs, ys], dim=-1)


def inverse_intrinsics(intrinsics: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 3"]:
    """``K^-1``; `torch.linalg.inv` gives the very same, but lets the host of a GPU wait."""
    scale = 1 / intrinsics.diagonal(dim1=1, dim2=2)
    inverse = torch.diag_embed(scale)
    inverse[:, :2, 2] = -intrinsics[:, :2, 2] * scale[:, :2]
    return inverse


def median_depth(depth: Float[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
    """Median of what is known of each image's depth, over a grid of `MEDIAN_PIXELS`; NaN where nothing is."""
    stride = max(1, math.isqrt(depth.shape[-2] * depth.shape[-1] // MEDIAN_PIXELS))
    some = depth[..., ::stride, ::stride]
    return torch.where(some > 0, some, torch.nan).flatten(1).nanmedian(dim=1).values


def backproject(depth: Float[Tensor, "n 1 h w"], cameras: Cameras) -> Float[Tensor, "n h w 3"]:
    """World points of every pixel at its z-depth."""
    pixels = pixel_grid(cameras.width, cameras.height, depth.device)
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    rays = torch.einsum("nij,hwj->nhwi", inverse_intrinsics(cameras.intrinsics), homogeneous)
    points = rays * depth.permute(0, 2, 3, 1)
    rotation, translation = cameras.camera_to_world[:, :3, :3], cameras.camera_to_world[:, :3, 3]
    return torch.einsum("nij,nhwj->nhwi", rotation, points) + translation[:, None, None]


def project(
    points: Float[Tensor, "n *some 3"], cameras: Cameras
) -> tuple[Float[Tensor, "n *some 2"], Float[Tensor, " n *some"]]:
    """Pixel coordinates and z-depth of world points. Pixels are meaningless where the z-depth is not positive.

    Args:
        points: some for each camera; a first axis of 1 shows the same points to all cameras.
        cameras: that look at them.
    """
    homogeneous = _homogeneous(points, cameras)
    z = homogeneous[..., 2]
    return homogeneous[..., :2] / z.clamp(min=1e-6)[..., None], z


def inverted(values: Float[Tensor, "*shape"], least: float = 1e-12) -> Float[Tensor, "*shape"]:
    """Turn depth into inverse depth, or back; 0 is unknown in both. Smaller values count as ``least``."""
    return torch.where(values > 0, 1 / values.clamp(min=least), 0.0)


def in_frustum(cameras: Cameras, points: Float[Tensor, "p 3"]) -> Bool[Tensor, "n p"]:
    """Whether each camera has each point in front of it and inside its image; occlusion is not considered."""
    # Compare x with w z instead of x / z with w: no division by a depth near zero.
    x, y, z = _homogeneous(points[None], cameras).unbind(-1)
    return (z > 0) & (x >= 0) & (y >= 0) & (x <= cameras.width * z) & (y <= cameras.height * z)


def _homogeneous(points: Float[Tensor, "n *some 3"], cameras: Cameras) -> Float[Tensor, "n *some 3"]:
    """World points as ``z [p, 1] = K R^T (X - t)``."""
    pose = cameras.world_to_camera
    shift = pose[:, :3, 3].view(-1, *(1,) * (points.ndim - 2), 3)
    local = torch.einsum("nij,n...j->n...i", pose[:, :3, :3], points) + shift
    return torch.einsum("nij,n...j->n...i", cameras.intrinsics, local)


def reproject(
    depth: Float[Tensor, "n 1 h w"], cameras: Cameras, others: Cameras
) -> tuple[Float[Tensor, "n h w 2"], Float[Tensor, "n h w"]]:
    """``project(backproject(depth, cameras), others)`` with both cameras in one 3x4 matrix.

    ``z' [p', 1] = z A [p, 1] + b`` with ``A = K' R'^T R K^-1`` and ``b = K' R'^T (t - t')``, composed in double
    precision. ``A [p, 1]`` is affine in the pixel: a row of columns plus a column of rows.
    """
    matrix, offset = composed(cameras, others)
    xs = torch.arange(cameras.width, device=depth.device) + 0.5
    ys = torch.arange(cameras.height, device=depth.device) + 0.5
    rows = matrix[:, :, 1:2] * ys + matrix[:, :, 2:]
    rays = rows[..., None] + (matrix[:, :, :1] * xs)[:, :, None]
    homogeneous = torch.addcmul(offset[..., None, None], rays, depth)
    z = homogeneous[:, 2]
    pixels = homogeneous[:, :2] / z.clamp(min=1e-6)[:, None]
    return pixels.permute(0, 2, 3, 1), z


def composed(cameras: Cameras, others: Cameras) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"]]:
    """Compute ``A`` and ``b`` of `reproject` in double precision, given in that of the intrinsics."""
    pose, other = cameras.camera_to_world.double(), others.camera_to_world.double()
    turn = others.intrinsics.double() @ other[:, :3, :3].transpose(1, 2)
    matrix = turn @ pose[:, :3, :3] @ inverse_intrinsics(cameras.intrinsics.double())
    offset = (turn @ (pose[:, :3, 3] - other[:, :3, 3])[..., None])[..., 0]
    return matrix.to(cameras.intrinsics), offset.to(cameras.intrinsics)


def sample(image: Float[Tensor, "n c hs ws"], pixels: Float[Tensor, "n h w 2"]) -> Float[Tensor, "n c h w"]:
    """Bilinear look-up at pixel coordinates; edges are repeated outside."""
    size = pixels.new_full((2,), image.shape[-1])  # filled on the device
    size[1].fill_(image.shape[-2])
    grid = pixels / size * 2 - 1
    return F.grid_sample(image, grid.to(image.dtype), mode="bilinear", padding_mode="border", align_corners=False)


def backward_warp(
    source: Frames, depth: Float[Tensor, "n 1 h w"], cameras: Cameras, tolerance: float = SURFACE_TOLERANCE
) -> Warped:
    """Pull each source image into the view of ``cameras`` through the target's depth.

    Each target pixel is lifted to its world point, projected into the source and looked up there. Where the source
    has depth ``d`` and the point lies at ``z``, visibility falls as ``exp(-((z - d) / (tolerance * z))^2)`` on
    both sides: in front of the source's surface the target's depth is wrong, behind it the source is occluded. A
    source without depth there (0) is believed.

    Args:
        source: one source for each target (photos or earlier outputs); any size.
        depth: z-depth of the target view, 0 where empty.
        cameras: the target cameras, of the size of ``depth``.
        tolerance: relative depth disagreement at which visibility has fallen to 1/e.

    Raises:
        ValueError: when the numbers of sources, depths and cameras differ.
    """
    if not len(source) == len(cameras) == depth.shape[0]:
        raise ValueError(
            f"backward_warp needs one source per target: {len(source)} sources, {depth.shape[0]} depths, "
            f"{len(cameras)} cameras"
        )
    rgb, agreement, inside, known = look_up(source.rgb, source, depth, cameras, tolerance)
    return Warped(rgb=rgb * inside, valid=torch.where(known, agreement, 1.0) * inside)


def warp_all(sources: Frames, view: Frames, tolerance: float = SURFACE_TOLERANCE) -> Warped:
    """`backward_warp` of every source into one view (a batch of one) through its depth."""
    count = len(sources)
    return backward_warp(sources, view.depth.expand(count, -1, -1, -1), view.cameras.repeated(count), tolerance)


def look_up(
    images: Float[Tensor, "n c hs ws"],
    source: Frames,
    depth: Float[Tensor, "n 1 h w"],
    cameras: Cameras,
    tolerance: float = SURFACE_TOLERANCE,
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n 1 h w"], Bool[Tensor, "n 1 h w"], Bool[Tensor, "n 1 h w"]]:
    """Images of the source views, of any meaning, seen from ``cameras``; the arguments are `backward_warp`'s.

    Returns:
        the images' values, meaningless outside; how far the depths agree, meaningless where the source has none;
        whether the source shows the point; whether it has depth there.
    """
    pixels, z = reproject(depth, cameras, source.cameras)
    x, y = pixels.unbind(-1)
    inside = (x >= 0) & (x <= source.cameras.width) & (y >= 0) & (y <= source.cameras.height)
    inside &= (z > 0) & (depth[:, 0] > 0)
    pixels = torch.where(inside[..., None], pixels, 0.0)
    seen = sample(torch.cat([images, source.depth, (source.depth > 0).to(source.depth.dtype)], dim=1), pixels)
    source_depth = _known(seen[:, -2], seen[:, -1])
    z = torch.where(inside, z, 1.0)
    agreement = ((z - source_depth) / (tolerance * z)).square_().neg_().exp_()
    return seen[:, :-2], agreement[:, None], inside[:, None], (source_depth > 0)[:, None]


def _known(depth: Float[Tensor, "n h w"], known: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Interpolated depth without the share of pixels without depth (0), so holes do not pull their rims nearer."""
    return torch.where(known > 0, depth / known.clamp(min=1e-6), 0.0)
