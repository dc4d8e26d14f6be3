# SPDX-License-Identifier: Apache-2.0
"""What the built-in network looks at: the render, its geometry, and candidates warped into its view.

A *candidate* is an image that could stand in for the render: a warped reference photo or the warped previous output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.types import Cameras
from harmonizer_ns.warp import backproject

CUES = 2
"""Number of scalar cues of each candidate: ray angle and resolution ratio, see `ray_cues`."""

CUE_STRIDE = 4
"""Cues are known at the top-left pixel of each cell of this size."""


@dataclass(frozen=True)
class BuiltinInputs:
    """Input of the built-in network for ``n`` frames with ``k`` candidates each.

    A frame with fewer candidates fills up with ones of validity 0: those never influence the output.

    Args:
        render: colours in [0, 1].
        alpha: accumulated opacity in [0, 1].
        inverse_depth: see `relative_inverse_depth`.
        warps: candidates, warped into the view; values do not matter where validity is 0.
        valid: their validity in [0, 1].
        cues: their scalar cues, see `ray_cues`; 0 for a previous output.
        is_previous: 1 for a previous output, 0 for a reference photo.
    """

    render: Float[Tensor, "n 3 h w"]
    alpha: Float[Tensor, "n 1 h w"]
    inverse_depth: Float[Tensor, "n 1 h w"]
    warps: Float[Tensor, "n k 3 h w"]
    valid: Float[Tensor, "n k 1 h w"]
    cues: Float[Tensor, "n k 2 h/4 w/4"]
    is_previous: Float[Tensor, "n k"]

    def __post_init__(self) -> None:
        n, _, h, w = self.render.shape
        k = self.warps.shape[1]
        wanted = {
            "render": (n, 3, h, w),
            "alpha": (n, 1, h, w),
            "inverse_depth": (n, 1, h, w),
            "warps": (n, k, 3, h, w),
            "valid": (n, k, 1, h, w),
            "cues": (n, k, CUES, -(-h // CUE_STRIDE), -(-w // CUE_STRIDE)),
            "is_previous": (n, k),
        }
        for name, shape in wanted.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"BuiltinInputs.{name} has shape {tuple(getattr(self, name).shape)}, not {shape}")


def relative_inverse_depth(depth: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """``median(z) / z`` for each image, clamped to [0, 4], and 0 where empty: free of the scene's scale."""
    known = torch.where(depth > 0, depth, torch.full_like(depth, torch.nan)).flatten(1)
    median = known.nanmedian(dim=1).values.nan_to_num(1.0)[:, None, None, None]
    return torch.where(depth > 0, median / depth.clamp(min=1e-12), torch.zeros_like(depth)).clamp(max=4)


def ray_cues(depth: Float[Tensor, "n 1 h w"], cameras: Cameras, references: Cameras) -> Float[Tensor, "n 2 h/4 w/4"]:
    """How well another camera sees the world point ``X`` of every fourth pixel; one reference for each view.

    1. the angle at ``X`` between the rays to the two centres ``c`` and ``r``, as ``2 sin(angle / 2)`` = the chord
       between the unit rays, in [0, 2] (stable for small angles, where arccos is not);
    2. the resolution ratio ``log2((f_r / |X - r|) / (f_c / |X - c|))``, clamped to [-3, 3]: positive where the
       reference shows the point larger.

    Both are 0 where the depth is 0.
    """
    depth, cameras = _subsampled(depth, cameras)
    points = backproject(depth, cameras)
    to_view, far_view = _unit(cameras.centers[:, None, None] - points)
    to_reference, far_reference = _unit(references.centers[:, None, None] - points)
    chord = (to_view - to_reference).norm(dim=-1)
    focal_ratio = references.intrinsics[:, 0, 0] / (cameras.intrinsics[:, 0, 0] * CUE_STRIDE)
    ratio = torch.log2(focal_ratio[:, None, None] * far_view / far_reference).clamp(-3, 3)
    return torch.stack([chord, ratio], dim=1) * (depth > 0)


def _subsampled(depth: Float[Tensor, "n 1 h w"], cameras: Cameras) -> tuple[Float[Tensor, "n 1 h/4 w/4"], Cameras]:
    """Every fourth pixel, and cameras of which these are the pixel centres: ``x' = (x - 1/2) / 4 + 1/2``."""
    depth = depth[..., ::CUE_STRIDE, ::CUE_STRIDE]
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, :2] /= CUE_STRIDE
    intrinsics[:, :2, 2] += 0.5 - 0.5 / CUE_STRIDE
    return depth, Cameras(cameras.camera_to_world, intrinsics, depth.shape[-1], depth.shape[-2])


def _unit(vectors: Float[Tensor, "n h w 3"]) -> tuple[Float[Tensor, "n h w 3"], Float[Tensor, "n h w"]]:
    length = vectors.norm(dim=-1).clamp(min=1e-12)
    return vectors / length[..., None], length
