# SPDX-License-Identifier: Apache-2.0
"""What the built-in network looks at: the render, its geometry, and candidates warped into its view.

A *candidate* is an image that could stand in for the render: a warped reference photo or the warped previous output.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.images import Padding
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.warp import REFERENCE_TOLERANCE, backproject, backward_warp, median_depth

CUES = 2
"""Number of scalar cues of each candidate: ray angle and resolution ratio, see `ray_cues`."""

CUE_STRIDE = 4
"""Cues are known at the top-left pixel of each cell of this size."""

_IMAGES = ("render", "alpha", "inverse_depth", "warps", "valid")

Candidate = tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"], Float[Tensor, "2 h/4 w/4"]]
"""Colours warped into the view, validity, cues."""


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

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> BuiltinInputs:
        """The same inputs on ``device``, in another precision if one is given."""
        return BuiltinInputs(*(getattr(self, field.name).to(device, dtype) for field in fields(self)))

    def padded(self, padding: Padding) -> BuiltinInputs:
        """Every image with its last row and column repeated; what is added is believed as little as its neighbour."""
        images = {name: padding.apply(getattr(self, name)) for name in _IMAGES}
        height, width = (side // CUE_STRIDE for side in images["render"].shape[-2:])
        cues = Padding(width - self.cues.shape[-1], height - self.cues.shape[-2]).apply(self.cues)
        return replace(self, cues=cues, **images)

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


def gather_inputs(frames: Frames, context: Context, max_references: int) -> BuiltinInputs:
    """Warp whatever the context offers into the frames' views; frames with fewer candidates are filled up.

    Raises:
        ValueError: when the context holds another number of references or previous outputs than there are frames.
    """
    photos = context.photos(frames)
    seen = [_reference_candidates(frames[i], photos[i], max_references) for i in range(len(frames))]
    count = max([len(candidates) for candidates in seen], default=0)
    filled = [candidates + [_nothing(frames)] * (count - len(candidates)) for candidates in seen]
    previous = [one for output in context.outputs(frames, 1) for one in _previous_candidates(frames, output)]
    filled = [candidates + previous[i : i + 1] for i, candidates in enumerate(filled)]
    if not (count or previous):
        filled = [[_nothing(frames)] for _ in filled]
    warps, valid, cues = (torch.stack([torch.stack(part) for part in parts]) for parts in _transposed(filled))
    kinds = torch.zeros(warps.shape[:2], device=warps.device)
    kinds[:, count:] = float(bool(previous))
    inverse_depth = relative_inverse_depth(frames.depth)
    return BuiltinInputs(frames.rgb, frames.alpha, inverse_depth, warps, valid, cues, kinds)


def _transposed(candidates: list[list[Candidate]]) -> Any:
    """From frame -> candidate -> part to part -> frame -> candidate."""
    return [[[candidate[part] for candidate in frame] for frame in candidates] for part in range(3)]


def _reference_candidates(frame: Frames, references: Frames | None, limit: int) -> list[Candidate]:
    if references is None or not len(references) or not limit:
        return []
    references = references[slice(0, limit)].to(frame.rgb.device)
    count = len(references)
    cameras, depth = frame.cameras.repeated(count), frame.depth.expand(count, -1, -1, -1)
    warped = backward_warp(references, depth, cameras, REFERENCE_TOLERANCE)
    cues = ray_cues(depth, cameras, references.cameras.resized(cameras.width, cameras.height))
    return list(zip(warped.rgb, warped.valid, cues, strict=True))


def _previous_candidates(frames: Frames, previous: Frames) -> list[Candidate]:
    warped = backward_warp(previous.to(frames.rgb.device), frames.depth, frames.cameras)
    return list(zip(warped.rgb, warped.valid, _no_cues(frames), strict=True))


def _no_cues(frames: Frames) -> Float[Tensor, "n 2 h/4 w/4"]:
    return torch.zeros_like(frames.depth[..., ::CUE_STRIDE, ::CUE_STRIDE]).expand(-1, CUES, -1, -1)


def _nothing(frames: Frames) -> Candidate:
    empty = torch.zeros_like(frames.depth[0])
    return empty.expand(3, -1, -1), empty, _no_cues(frames)[0]


def relative_inverse_depth(depth: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """``median(z) / z`` for each image, clamped to [0, 4], and 0 where empty: free of the scene's scale.

    The network was trained with the median of all pixels; with that of 700 it repairs as well, to 0.0002 dB.
    """
    median = median_depth(depth).nan_to_num(1.0)[:, None, None, None]
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
