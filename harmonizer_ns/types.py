# SPDX-License-Identifier: Apache-2.0
"""The vocabulary every part of the project shares.

Conventions, kept everywhere:

- images: RGB, float32 in [0, 1], layout ``n 3 h w``;
- alpha: accumulated opacity in [0, 1], layout ``n 1 h w``;
- depth: z-depth in scene units, layout ``n 1 h w``, 0 where nothing was hit;
- cameras: 4x4 camera-to-world with OpenCV axes (x right, y down, z forward), 3x3 intrinsics in pixels,
  pixel centres at +0.5 (the centre of the top-left pixel is (0.5, 0.5)).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.devices import sent

EMPTY_ALPHA = 1e-3
"""Pixels with no more accumulated opacity show nothing, and have no depth."""


@dataclass(frozen=True)
class Cameras:
    """``n`` pinhole cameras that share one image size.

    Args:
        camera_to_world: rigid transforms, OpenCV axes, scene units.
        intrinsics: ``[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]`` in pixels.
        width: image width in pixels.
        height: image height in pixels.

    Raises:
        ValueError: on shapes that do not fit together or a non-positive size.
    """

    camera_to_world: Float[Tensor, "n 4 4"]
    intrinsics: Float[Tensor, "n 3 3"]
    width: int
    height: int

    def __post_init__(self) -> None:
        n = self.camera_to_world.shape[0]
        if tuple(self.camera_to_world.shape) != (n, 4, 4) or tuple(self.intrinsics.shape) != (n, 3, 3):
            raise ValueError(
                "Cameras need camera_to_world (n, 4, 4) and intrinsics (n, 3, 3), got "
                f"{tuple(self.camera_to_world.shape)} and {tuple(self.intrinsics.shape)}"
            )
        if self.width < 1 or self.height < 1:
            raise ValueError(f"Cameras need a positive image size, got {self.width}x{self.height}")

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Cameras:
        """The selected cameras, always as a batch (an ``int`` gives a batch of one)."""
        pose, intrinsics = _selected(self.camera_to_world, index), _selected(self.intrinsics, index)
        return replace(self, camera_to_world=pose, intrinsics=intrinsics)

    def __iter__(self) -> Iterator[Cameras]:
        return (self[i] for i in range(len(self)))

    @property
    def world_to_camera(self) -> Float[Tensor, "n 4 4"]:
        """Rigid inverse of ``camera_to_world``: ``[R^T, -R^T t]``."""
        rotation = self.camera_to_world[:, :3, :3].transpose(1, 2)
        inverse = self.camera_to_world.clone()
        inverse[:, :3, :3] = rotation
        inverse[:, :3, 3] = -(rotation @ self.camera_to_world[:, :3, 3:]).squeeze(-1)
        return inverse

    @property
    def centers(self) -> Float[Tensor, "n 3"]:
        """Camera centres in world coordinates."""
        return self.camera_to_world[:, :3, 3]

    def to(self, device: torch.device | str) -> Cameras:
        """The same cameras on ``device``."""
        pose, intrinsics = sent(self.camera_to_world, device), sent(self.intrinsics, device)
        return replace(self, camera_to_world=pose, intrinsics=intrinsics)

    def repeated(self, count: int) -> Cameras:
        """A batch of one as a batch of ``count``, in the same memory."""
        pose, intrinsics = self.camera_to_world.expand(count, -1, -1), self.intrinsics.expand(count, -1, -1)
        return replace(self, camera_to_world=pose, intrinsics=intrinsics)

    def resized(self, width: int, height: int) -> Cameras:
        """The same views at another image size; focal lengths and principal points scale with it."""
        intrinsics = self.intrinsics.clone()
        intrinsics[:, 0] *= width / self.width
        intrinsics[:, 1] *= height / self.height
        return replace(self, intrinsics=intrinsics, width=width, height=height)

    def resized_to_width(self, width: int) -> Cameras:
        """The same views that wide, in their own aspect, rounded to whole pixels."""
        return self.resized(width, max(1, round(self.height * width / self.width)))


def _selected(values: Tensor, index: int | slice | list[int] | Tensor) -> Tensor:
    """Some of a batch; one or a slice without a copy, and without an index that a GPU's host would have to send."""
    return values[index][None] if isinstance(index, int) else values[index]


def cat_cameras(cameras: list[Cameras]) -> Cameras:
    """Join batches of one image size.

    Raises:
        ValueError: when the list is empty or the sizes differ.
    """
    sizes = {(c.width, c.height) for c in cameras}
    if len(sizes) != 1:
        raise ValueError(f"cannot join cameras of different image sizes: {sorted(sizes)}")
    return replace(
        cameras[0],
        camera_to_world=torch.cat([c.camera_to_world for c in cameras]),
        intrinsics=torch.cat([c.intrinsics for c in cameras]),
    )


@dataclass(frozen=True)
class Frames:
    """``n`` images with their geometry: renders, or photos with the depth that a model has there.

    Args:
        rgb: colours in [0, 1].
        alpha: accumulated opacity in [0, 1] (1 for photos).
        depth: z-depth in scene units, 0 where empty or unknown.
        cameras: one camera for each image, of the same size as the images.

    Raises:
        ValueError: on shapes that do not fit together.
    """

    rgb: Float[Tensor, "n 3 h w"]
    alpha: Float[Tensor, "n 1 h w"]
    depth: Float[Tensor, "n 1 h w"]
    cameras: Cameras

    def __post_init__(self) -> None:
        n, h, w = len(self.cameras), self.cameras.height, self.cameras.width
        for name, channels in (("rgb", 3), ("alpha", 1), ("depth", 1)):
            shape = tuple(getattr(self, name).shape)
            if shape != (n, channels, h, w):
                raise ValueError(f"Frames.{name} has shape {shape}, its cameras say {(n, channels, h, w)}")

    @staticmethod
    def rendered(
        rgb: Float[Tensor, "n 3 h w"],
        alpha: Float[Tensor, "n 1 h w"],
        depth: Float[Tensor, "n 1 h w"],
        cameras: Cameras,
        min_alpha: float = EMPTY_ALPHA,
    ) -> Frames:
        """What a renderer drew: clamped to [0, 1], depth 0 where the opacity is not above ``min_alpha``."""
        depth = torch.where(alpha > min_alpha, depth, torch.zeros_like(depth))
        return Frames(rgb.clamp(0, 1), alpha.clamp(0, 1), depth, cameras)

    def __len__(self) -> int:
        return self.rgb.shape[0]

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Frames:
        """The selected frames, always as a batch (an ``int`` gives a batch of one)."""
        rgb, alpha, depth = (_selected(image, index) for image in (self.rgb, self.alpha, self.depth))
        return Frames(rgb, alpha, depth, self.cameras[index])

    def __iter__(self) -> Iterator[Frames]:
        return (self[i] for i in range(len(self)))

    def to(self, device: torch.device | str) -> Frames:
        """The same frames on ``device``."""
        rgb, alpha, depth = (sent(image, device) for image in (self.rgb, self.alpha, self.depth))
        return Frames(rgb, alpha, depth, self.cameras.to(device))


def cat_frames(frames: list[Frames]) -> Frames:
    """Join batches of one image size.

    Raises:
        ValueError: when the list is empty or the sizes differ.
    """
    return Frames(
        torch.cat([f.rgb for f in frames]),
        torch.cat([f.alpha for f in frames]),
        torch.cat([f.depth for f in frames]),
        cat_cameras([f.cameras for f in frames]),
    )


def as_frames(rgb: Float[Tensor, "3 h w"] | Float[Tensor, "n 3 h w"]) -> Frames:
    """Images without geometry: opaque, no depth, all seen by one camera at the origin."""
    rgb = rgb if rgb.ndim == 4 else rgb[None]
    count, _, height, width = rgb.shape
    focal = float(max(height, width))
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]], dtype=rgb.dtype)
    cameras = Cameras(torch.eye(4).repeat(count, 1, 1), intrinsics.repeat(count, 1, 1), width, height)
    return Frames(rgb, torch.ones_like(rgb[:, :1]), torch.zeros_like(rgb[:, :1]), cameras.to(rgb.device))


@dataclass(frozen=True)
class PseudoView:
    """One repaired view that may be trained on.

    Args:
        rgb: repaired colours in [0, 1].
        render: the colours before, as the model rendered them.
        weight: how far each pixel may be trusted, in [0, 1].
        camera: the camera it was rendered from (a batch of one).
        step: training step of its repair.
        target: index of the target view that this view approaches.
    """

    rgb: Float[Tensor, "3 h w"]
    render: Float[Tensor, "3 h w"]
    weight: Float[Tensor, "1 h w"]
    camera: Cameras
    step: int
    target: int


@runtime_checkable
class Renderer(Protocol):
    """Anything that renders a reconstruction: a nerfstudio model, a gsplat trainer, a test double."""

    def render(self, cameras: Cameras) -> Frames:
        """Render every camera; no gradients, on the device of the reconstruction."""
        ...


class Reconstructor(Protocol):
    """Anything that fits a scene to photos and can then render it."""

    def fit(self, photos: list[Frames], points: Float[Tensor, "p 3"], colors: Float[Tensor, "p 3"]) -> Renderer:
        """Fit to photos (batches of one; sizes may differ), starting from seed points with colours in [0, 1]."""
        ...
