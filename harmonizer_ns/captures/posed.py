# SPDX-License-Identifier: Apache-2.0
"""Posed views are what the files of a capture say before any photo is opened."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harmonizer_ns.captures.lens import undistorted
from harmonizer_ns.captures.photos import path_inside, with_any_suffix
from harmonizer_ns.errors import InputError
from harmonizer_ns.poses import FARTHEST
from harmonizer_ns.types import Cameras

logger = logging.getLogger(__name__)

_FAR = 100.0
"""Coordinates so many times larger than the cameras' extent lose pixels in float32: the offset is taken out."""


@dataclass(frozen=True)
class View:
    """A view is a posed photo before it is read.

    Args:
        name: path below the capture's image folder.
        camera_to_world: OpenCV axes, float64.
        lens: a ``pycolmap.Camera``, at the size that the capture declares.
        mask: file of its mask, or None.
        seen: which of the capture's points its keypoints belong to, or None when that is not known.
    """

    name: str
    camera_to_world: Float[Tensor, "4 4"]
    lens: Any
    mask: Path | None = None
    seen: Int[Tensor, " k"] | None = None


@dataclass(frozen=True)
class PosedViews:
    """Posed views describe a capture as its files do.

    Args:
        folder: of the capture.
        images: folder that the views' names are relative to.
        views: in natural order of their names.
        described_by: the files that all this is read from.
        read_points: gives seed points in world coordinates (float64), and their colours in [0, 1].
        train: names of the photos to train on, where the capture says so.
        test: names of the photos to hold out, where the capture says so.
        applied: how the capture's frame follows from COLMAP's (nerfstudio's ``applied_transform``).
    """

    folder: Path
    images: Path
    views: list[View]
    described_by: tuple[Path, ...]
    read_points: Callable[[], tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]]]
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    applied: Float[Tensor, "4 4"] = field(default_factory=lambda: torch.eye(4))

    @cached_property
    def photos(self) -> list[Path]:
        """Find the file of each view's photo.

        Raises:
            InputError: when a name leads out of the capture.
        """
        below, where = os.path.relpath(self.images, self.folder), str(self.described_by[0])
        names = (
            str(Path(view.name) if Path(view.name).is_absolute() else Path(below, view.name)) for view in self.views
        )
        return with_any_suffix([path_inside(self.folder, name, where) for name in names])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name the photo of each view, as a path below the capture's folder."""
        return tuple(map(self.relative, self.photos))

    def relative(self, path: Path) -> str:
        """Name a path from the capture's folder on."""
        return Path(os.path.relpath(path, self.folder)).as_posix()

    @property
    def files(self) -> tuple[str, ...]:
        """List all that is read of the capture, as paths below its folder."""
        masks = [view.mask for view in self.views if view.mask is not None]
        return (*map(self.relative, self.described_by), *self.names, *map(self.relative, masks))

    @cached_property
    def origin(self) -> Float[Tensor, " 3"]:
        """What is taken from all coordinates, in float64: whole units near the cameras of a georeferenced capture.

        It is zero unless coordinates are so much larger than the cameras' extent that float32 would blur them.
        """
        return far_origin(torch.stack([view.camera_to_world[:3, 3] for view in self.views]), str(self.folder))

    @property
    def poses(self) -> Float[Tensor, "n 4 4"]:
        """Camera-to-world of each view, OpenCV axes, float32, from `origin` on."""
        poses = torch.stack([view.camera_to_world for view in self.views])
        poses[:, :3, 3] -= self.origin
        return poses.float()

    def points(self) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
        """Read seed points, float32, from `origin` on, and their colours in [0, 1].

        Raises:
            InputError: when points are not finite, or beyond any scene.
        """
        points, colors = self.read_points()
        bad = int((~(points.abs() <= FARTHEST)).any(dim=1).sum())
        if bad:
            raise InputError(f"{bad} of {len(points)} points of {self.described_by[-1]} are not finite, or beyond 1e15")
        return (points - self.origin).float(), colors

    def cameras(self) -> dict[str, Cameras]:
        """Give the cameras, by photo, of those that are pinhole images as they are; photos are not opened."""
        where = self.described_by[0]
        return {
            name: undistorted(view.lens, view.lens.width, view.lens.height, f"{where}: {view.name}").camera(pose)
            for name, view, pose in zip(self.names, self.views, self.poses, strict=True)
            if view.lens.is_undistorted()
        }


def far_origin(centers: Float[Tensor, "n 3"], where: str) -> Float[Tensor, " 3"]:
    """Choose what to take from the coordinates of a capture, in float64: zero, or whole units near the cameras.

    Args:
        centers: of the cameras, float64.
        where: names the capture in the line that is logged.
    """
    middle = centers.median(dim=0).values
    extent = (centers - middle).norm(dim=1).max().item()
    if middle.norm().item() <= _FAR * (extent or 100.0):  # cameras in one place tell nothing of the scene's size
        return torch.zeros(3, dtype=torch.float64)
    origin = middle.round() if extent > 1 else middle
    logger.warning("%s is georeferenced: coordinates count from %s on", where, origin.tolist())
    return origin
