# SPDX-License-Identifier: Apache-2.0
"""Undistort photos of any COLMAP camera model: each target pixel looks up where its ray met the original image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.poses import check_intrinsics
from harmonizer_ns.types import Cameras


@dataclass(frozen=True)
class Pinhole:
    """A pinhole camera, and how to get its image from the original one.

    Args:
        intrinsics: in pixels.
        width: in pixels.
        height: in pixels.
        lookup: for every pixel the place in or beside the original image, centres at +0.5, NaN where it has none;
            None when the original image has no distortion.
    """

    intrinsics: Float[Tensor, "3 3"]
    width: int
    height: int
    lookup: np.ndarray | None = None

    def camera(self, camera_to_world: Float[Tensor, "4 4"]) -> Cameras:
        """Place the camera at a pose, as a batch of one."""
        return Cameras(camera_to_world[None], self.intrinsics[None], self.width, self.height)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Undistort an image (``h w c`` or ``h w``, bytes); it is black where the original shows nothing."""
        if self.lookup is None:
            return image
        import cv2

        places = np.nan_to_num(self.lookup - 0.5, nan=-10.0).astype(np.float32)  # OpenCV's centres are whole numbers
        return cv2.remap(image, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def undistorted(lens: Any, width: int, height: int, where: str) -> Pinhole:
    """Find the pinhole camera closest to a ``pycolmap.Camera`` whose photos come at another size.

    COLMAP chooses the largest image without blank pixels.

    Raises:
        InputError: on a lens that has no pinhole counterpart, such as a panorama, or that no lens can be.
    """
    import pycolmap

    lens = pycolmap.Camera(lens.todict())
    if not np.isfinite(lens.params).all():
        raise InputError(f"{where}: its lens has parameters that are not finite: {lens.params.tolist()}")
    try:
        check_intrinsics(torch.from_numpy(lens.calibration_matrix()), lens.width, lens.height, where)
        lens.rescale(width, height)
        if lens.is_undistorted():
            return Pinhole(torch.from_numpy(lens.calibration_matrix()).float(), width, height)
        target = pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(), lens)
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{where}: camera model {lens.model_name} cannot be made a pinhole: {error}") from error
    matrix = target.calibration_matrix()
    columns, rows = np.meshgrid(np.arange(target.width) + 0.5, np.arange(target.height) + 0.5)
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=-1).reshape(-1, 3) @ np.linalg.inv(matrix).T
    lookup = lens.img_from_cam(rays).reshape(target.height, target.width, 2)
    # COLMAP's box is exact up to rounding: half a pixel outside still counts as the edge.
    edge = np.clip(lookup, 0.5, [width - 0.5, height - 0.5])
    inside = np.abs(lookup - edge) <= 1.0
    if not inside.all(axis=-1).any():
        raise InputError(f"{where}: nothing is left of the photo without the distortion {lens.params_to_string()}")
    lookup = np.where(inside, edge, lookup)
    return Pinhole(torch.from_numpy(matrix).float(), target.width, target.height, lookup)
