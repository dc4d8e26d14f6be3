# SPDX-License-Identifier: Apache-2.0
"""Posed views are what the files of a capture say before any photo is opened."""

from __future__ import annotations

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
from harmonizer_ns.captures.photos import find_image
from harmonizer_ns.types import Cameras


@dataclass(frozen=True)
class View:
    """A view is a posed photo before it is read.

    Args:
        name: path below the capture's image folder.
        camera_to_world: OpenCV axes.
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
        read_points: gives seed points in world coordinates, and their colours in [0, 1].
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
    def names(self) -> tuple[str, ...]:
        """Find the photo of each view, as a path below the capture's folder."""
        found = (find_image(self.images, view.name) or self.images / view.name for view in self.views)
        return tuple(self.relative(path) for path in found)

    def relative(self, path: Path) -> str:
        """Name a path from the capture's folder on."""
        return Path(os.path.relpath(path, self.folder)).as_posix()

    @property
    def files(self) -> tuple[str, ...]:
        """List all that is read of the capture, as paths below its folder."""
        masks = [view.mask for view in self.views if view.mask is not None]
        return (*map(self.relative, self.described_by), *self.names, *map(self.relative, masks))

    def cameras(self) -> dict[str, Cameras]:
        """Give the cameras, by photo, of those that are pinhole images as they are; photos are not opened."""
        return {
            name: undistorted(view.lens, view.lens.width, view.lens.height, name).camera(view.camera_to_world)
            for name, view in zip(self.names, self.views, strict=True)
            if view.lens.is_undistorted()
        }
