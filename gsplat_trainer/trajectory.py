# SPDX-License-Identifier: Apache-2.0
"""Camera paths for videos: along the photos, on an ellipse around the scene, on a spiral in front of it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from gsplat_trainer.config import Trajectory
from harmonizer_ns.poses import interpolate_pose, look_at
from harmonizer_ns.types import Cameras


def make_trajectory(kind: Trajectory, cameras: list[Cameras], count: int) -> list[Cameras]:
    """``count`` cameras of the first camera's lens and size; none for "none".

    Args:
        kind: "interp" runs through the cameras in order; "ellipse" circles the point that they look at; "spiral"
            moves around their mean.
        cameras: of the capture, batches of one, in capture order.
        count: number of frames.
    """
    poses = torch.cat([camera.camera_to_world for camera in cameras])
    makers = {"interp": _through, "ellipse": _ellipse, "spiral": _spiral}
    path = makers[kind](poses, count) if kind != "none" else []
    first = cameras[0]
    return [Cameras(pose[None], first.intrinsics, first.width, first.height) for pose in path]


def focus_point(poses: Float[Tensor, "n 4 4"]) -> Float[Tensor, " 3"]:
    """The point nearest to all viewing axes: ``sum (I - d d^T) (x - c) = 0``, solved by least squares."""
    centers, forward = poses[:, :3, 3].double(), poses[:, :3, 2].double()
    across = torch.eye(3, dtype=torch.float64) - forward[:, :, None] * forward[:, None, :]
    return (
        torch.linalg.lstsq(across.sum(0), (across @ centers[..., None]).sum(0), driver="gelsd").solution[:, 0].float()
    )


def _through(poses: Float[Tensor, "n 4 4"], count: int) -> list[Tensor]:
    places = torch.linspace(0, len(poses) - 1, count).tolist()
    before = [min(int(place), max(len(poses) - 2, 0)) for place in places]
    after = [min(i + 1, len(poses) - 1) for i in before]
    return [interpolate_pose(poses[i], poses[j], place - i) for i, j, place in zip(before, after, places, strict=True)]


def _ellipse(poses: Float[Tensor, "n 4 4"], count: int) -> list[Tensor]:
    """Around the focus, at the cameras' mean height, as wide as the cameras are along two principal directions."""
    focus, up = focus_point(poses), F.normalize(-poses[:, :3, 1].mean(dim=0), dim=0)
    offsets = poses[:, :3, 3] - focus
    height = (offsets @ up).mean()
    flat = offsets - (offsets @ up)[:, None] * up
    first = torch.linalg.svd(flat, full_matrices=False).Vh[0]
    first = F.normalize(first - (first @ up) * up, dim=0)
    second = torch.linalg.cross(up, first)
    widths = [(flat @ axis).abs().quantile(0.9) for axis in (first, second)]
    angles = torch.arange(count) * (2 * math.pi / count)
    around = widths[0] * angles.cos()[:, None] * first + widths[1] * angles.sin()[:, None] * second
    return [look_at(focus + height * up + offset, focus, up) for offset in around]


def _spiral(poses: Float[Tensor, "n 4 4"], count: int) -> list[Tensor]:
    """Two turns around the cameras' mean place, as far out as they are, looking at their focus."""
    center, up = poses[:, :3, 3].mean(dim=0), F.normalize(-poses[:, :3, 1].mean(dim=0), dim=0)
    focus = focus_point(poses)
    base = look_at(center, focus, up)[:3, :3]
    reach = ((poses[:, :3, 3] - center) @ base).abs().quantile(0.9, dim=0)
    angles = torch.arange(count) * (4 * math.pi / count)
    steps = torch.stack([angles.cos(), angles.sin(), (angles / 2).sin() / 2], dim=1) * reach
    return [look_at(center + base @ step, focus, up) for step in steps]
