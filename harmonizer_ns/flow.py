# SPDX-License-Identifier: Apache-2.0
"""Where every pixel of one view lies in another: exactly, from depth and cameras, or estimated by DIS or RAFT.

A flow ``f`` from view A to view B says that what A shows at pixel ``p`` is at ``p + f(p)`` in B; ``f`` is in pixels,
``(x, y)``. Looking B up there (`warp_by_flow`) gives B's colours in A's view.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from harmonizer_ns.errors import of_extra
from harmonizer_ns.features import fill, pretrained
from harmonizer_ns.images import Padding, to_pixels
from harmonizer_ns.types import Cameras
from harmonizer_ns.warp import SURFACE_TOLERANCE, backproject, pixel_grid, project, sample

DIS_LEAST = 12
"""Side in pixels of the smallest image that DIS takes."""
_RAFT_MULTIPLE, _RAFT_LEAST = 8, 128  # its correlation pyramid has no smaller levels


@dataclass(frozen=True)
class Flow:
    """Motion from one view to another.

    Args:
        offset: in pixels, ``(x, y)``; 0 where it is not valid.
        valid: where the same point is visible in both views.
    """

    offset: Float[Tensor, "b 2 h w"]
    valid: Bool[Tensor, "b 1 h w"]


def warp_by_flow(image: Float[Tensor, "b c h w"], offset: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b c h w"]:
    """``image`` looked up bilinearly at ``p + offset(p)``; edges are repeated outside."""
    height, width = image.shape[-2:]
    return sample(image, pixel_grid(width, height, image.device) + offset.permute(0, 2, 3, 1))


def depth_flow(
    depth: Float[Tensor, "b 1 h w"], cameras: Cameras, other_depth: Float[Tensor, "b 1 h w"], other_cameras: Cameras
) -> Flow:
    """The exact flow of a static scene from one view to another of the same size.

    Pixel ``p`` at depth ``z`` is lifted to its world point, projected into the other camera, and valid when it falls
    into that image, in front of that camera, and where all four neighbouring depths are known and their mean agrees
    with the point's depth ``z'`` there: ``|z' - d| <= t z'`` with the `SURFACE_TOLERANCE` t. A nearer ``d`` means that
    it is occluded.

    Args:
        depth: z-depth of each view, 0 where unknown.
        cameras: its cameras.
        other_depth: z-depth of the other view.
        other_cameras: its cameras.

    Raises:
        ValueError: when numbers or sizes differ.
    """
    size = (len(cameras), 1, cameras.height, cameras.width)
    other_size = (len(other_cameras), 1, other_cameras.height, other_cameras.width)
    if not tuple(depth.shape) == tuple(other_depth.shape) == size == other_size:
        raise ValueError(
            f"depth_flow needs views of one size: depths {tuple(depth.shape)} and {tuple(other_depth.shape)}, "
            f"cameras {size} and {other_size}"
        )
    pixels, z = project(backproject(depth, cameras), other_cameras)
    limits = pixels.new_tensor([cameras.width, cameras.height])
    inside = ((pixels >= 0) & (pixels <= limits)).all(dim=-1) & (z > 0) & (depth[:, 0] > 0)
    offset = (pixels - pixel_grid(cameras.width, cameras.height, pixels.device)) * inside[..., None]
    offset = offset.nan_to_num().permute(0, 3, 1, 2)  # 0 * inf, from points in the plane of the camera
    known = warp_by_flow((other_depth > 0).to(depth.dtype), offset) > 1 - 1e-4
    seen = warp_by_flow(other_depth, offset)
    agrees = (z[:, None] - seen).abs() <= SURFACE_TOLERANCE * z[:, None]
    valid = inside[:, None] & known & agrees
    return Flow(offset * valid, valid)


def dis_flow(image: Float[Tensor, "1 3 h w"], other: Float[Tensor, "1 3 h w"]) -> Flow:
    """Estimate the flow by DIS (Kroeger et al. 2016), valid where the flow back agrees (`consistent`); no weights.

    Args:
        image: colours in [0, 1].
        other: likewise, of the same size.

    Raises:
        ValueError: when the shapes differ, or a side has less than `DIS_LEAST` pixels.
    """
    if image.shape != other.shape or min(image.shape[-2:]) < DIS_LEAST:
        shapes = f"{tuple(image.shape)} and {tuple(other.shape)}"
        raise ValueError(f"dis_flow needs images of one shape and at least {DIS_LEAST} pixels a side, got {shapes}")
    offsets = dis_offsets(to_pixels(image[0]), to_pixels(other[0]))
    both = (torch.from_numpy(offset).permute(2, 0, 1)[None].to(image) for offset in offsets)
    forward, backward = both
    valid = consistent(forward, backward)
    return Flow(forward * valid, valid)


def dis_offsets(
    image: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"]
) -> tuple[Float[np.ndarray, "h w 2"], Float[np.ndarray, "h w 2"]]:
    """Estimate by DIS, at its medium preset, where pixels of an image lie in another one, and the other way round."""
    import cv2

    grey, other_grey = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (image, other))
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # None is right here, whatever the stubs say: OpenCV allocates the flow.
    return dis.calc(grey, other_grey, None), dis.calc(other_grey, grey, None)  # pyright: ignore


def load_raft(size: Literal["small", "large"] = "large", path: Path | None = None) -> nn.Module:
    """RAFT (Teed and Deng 2020) of torchvision, frozen.

    Args:
        size: 1.0 or 5.3 million parameters.
        path: torchvision's state dict of ``raft_small`` or ``raft_large``; None downloads it.

    Raises:
        InputError: when the file is missing, damaged or of another network, or the download fails.
    """
    with of_extra("metrics", "RAFT"):
        from torchvision.models import optical_flow

    name = f"raft_{size}"
    weights = pretrained(name, path)
    with torch.device("meta"):
        model = {"small": optical_flow.raft_small, "large": optical_flow.raft_large}[size](weights=None)
    fill(model, weights, path or name)
    return model.requires_grad_(False).eval()


@torch.no_grad()
def raft_flow(
    model: nn.Module, image: Float[Tensor, "b 3 h w"], other: Float[Tensor, "b 3 h w"], updates: int = 12
) -> Flow:
    """Flow from one image to another, valid where the flow back agrees (`consistent`).

    Args:
        model: from `load_raft`.
        image: colours in [0, 1].
        other: likewise, of the same size; sides below 128 pixels are padded.
        updates: iterations of RAFT.

    Raises:
        ValueError: when the shapes differ.
    """
    if image.shape != other.shape:
        raise ValueError(f"raft_flow needs images of one shape, got {tuple(image.shape)} and {tuple(other.shape)}")
    padding = _raft_padding(*image.shape[-2:])
    first, second = (padding.apply(value.float()) * 2 - 1 for value in (image, other))
    both = model(torch.cat([first, second]), torch.cat([second, first]), num_flow_updates=updates)[-1]
    forward, backward = padding.undo(both).chunk(2)
    valid = consistent(forward, backward)
    return Flow(forward * valid, valid)


def _raft_padding(height: int, width: int) -> Padding:
    right, bottom = (max(_RAFT_LEAST, -(-side // _RAFT_MULTIPLE) * _RAFT_MULTIPLE) - side for side in (width, height))
    return Padding(right, bottom)


def consistent(forward: Float[Tensor, "b 2 h w"], backward: Float[Tensor, "b 2 h w"]) -> Bool[Tensor, "b 1 h w"]:
    """Where going there and back again ends where it began (Sundaram et al. 2010, equation 5), inside the image.

    ``|f(p) + b(p + f(p))|^2 < 0.01 (|f(p)|^2 + |b(p + f(p))|^2) + 0.5``, and ``p + f(p)`` lies in the image.
    """
    height, width = forward.shape[-2:]
    back = warp_by_flow(backward, forward)
    gap = (forward + back).square().sum(1, keepdim=True)
    lengths = forward.square().sum(1, keepdim=True) + back.square().sum(1, keepdim=True)
    ends = pixel_grid(width, height, forward.device).permute(2, 0, 1) + forward
    inside = (ends >= 0).all(1, keepdim=True) & (ends[:, :1] <= width) & (ends[:, 1:] <= height)
    return (gap < 0.01 * lengths + 0.5) & inside
