# SPDX-License-Identifier: Apache-2.0
"""Here alone nerfstudio's cameras (OpenGL axes, 3x4) and ours (OpenCV axes, 4x4) meet.

OpenGL cameras look along -z with y up; OpenCV cameras look along +z with y down. Both put pixel centres at +0.5.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.utils.poses import to4x4
from torch import Tensor

from harmonizer_ns.poses import flip_axes
from harmonizer_ns.types import Cameras


def opencv_poses(camera_to_worlds: Float[Tensor, "*n r 4"]) -> Float[Tensor, "m 4 4"]:
    """nerfstudio's OpenGL poses (3x4 or 4x4) as 4x4 OpenCV ones; gradients flow."""
    return to4x4(flip_axes(camera_to_worlds.reshape(-1, *camera_to_worlds.shape[-2:])[:, :3].float()))


def from_nerfstudio(cameras: NerfstudioCameras) -> Cameras:
    """Pinhole part of nerfstudio cameras that share one size; distortion is left to the caller.

    Raises:
        ValueError: when the sizes differ.
    """
    sizes = torch.stack([cameras.width.reshape(-1), cameras.height.reshape(-1)], dim=-1).unique(dim=0)
    if len(sizes) != 1:
        raise ValueError(f"cameras of one batch must share one size, got {sizes.tolist()}")
    width, height = (int(side) for side in sizes[0])
    poses = opencv_poses(cameras.camera_to_worlds)
    intrinsics = cameras.get_intrinsics_matrices().reshape(-1, 3, 3).float()
    return Cameras(poses, intrinsics.to(poses.device), width, height)


def to_nerfstudio(cameras: Cameras) -> NerfstudioCameras:
    """Perspective nerfstudio cameras without distortion and without metadata.

    Leaving out ``metadata["cam_idx"]`` keeps per-image parameters (bilateral grids, pose offsets) out of
    pseudo-views.
    """
    intrinsics = cameras.intrinsics
    return NerfstudioCameras(
        camera_to_worlds=flip_axes(cameras.camera_to_world[:, :3]),
        fx=intrinsics[:, 0, 0:1],
        fy=intrinsics[:, 1, 1:2],
        cx=intrinsics[:, 0, 2:3],
        cy=intrinsics[:, 1, 2:3],
        width=cameras.width,
        height=cameras.height,
        camera_type=CameraType.PERSPECTIVE,
    )


def is_pinhole(cameras: NerfstudioCameras) -> bool:
    """Whether these are perspective cameras without distortion."""
    perspective = bool((cameras.camera_type == CameraType.PERSPECTIVE.value).all())
    return perspective and (cameras.distortion_params is None or not bool(cameras.distortion_params.any()))
