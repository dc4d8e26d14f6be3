# SPDX-License-Identifier: Apache-2.0
"""What training sees of pairs: images, targets, references and geometry of one size, stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.types import Cameras

T = TypeVar("T")


@dataclass(frozen=True)
class Geometry:
    """Depth and cameras of a batch. Where a pair has none, depth is 0 (unknown) everywhere.

    Leading dimensions are those of the batch's images: ``b``, or ``b t`` for clips.

    Args:
        depth: z-depth in scene units, 0 where unknown.
        alpha: opacity in [0, 1]; 1 where the pair does not tell.
        camera_to_world: OpenCV axes.
        intrinsics: in pixels of the crop.
        reference_depth: as ``depth``, for each reference.
        reference_camera_to_world: likewise.
        reference_intrinsics: likewise.
    """

    depth: Float[Tensor, "*b 1 h w"]
    alpha: Float[Tensor, "*b 1 h w"]
    camera_to_world: Float[Tensor, "*b 4 4"]
    intrinsics: Float[Tensor, "*b 3 3"]
    reference_depth: Float[Tensor, "*b r 1 h w"]
    reference_camera_to_world: Float[Tensor, "*b r 4 4"]
    reference_intrinsics: Float[Tensor, "*b r 3 3"]

    def cameras(self) -> Cameras:
        """The images' cameras, in one row."""
        return self._cameras(self.camera_to_world, self.intrinsics)

    def reference_cameras(self) -> Cameras:
        """The references' cameras, in one row."""
        return self._cameras(self.reference_camera_to_world, self.reference_intrinsics)

    def _cameras(self, poses: Tensor, intrinsics: Tensor) -> Cameras:
        height, width = self.depth.shape[-2:]
        return Cameras(poses.reshape(-1, 4, 4), intrinsics.reshape(-1, 3, 3), width, height)


@dataclass(frozen=True)
class PairBatch:
    """Views of one size, colours in [0, 1]; clips have a dimension ``t`` after ``b`` in every tensor, oldest first.

    Args:
        names: of the pairs; of a clip, its last frame's.
        prompts: their texts, maybe empty; likewise.
        seeds: a random number of each item, for what a loss draws: the same however items are spread over processes.
        image: damaged.
        target: what it should look like.
        references: real photos, as many for each item as were asked for; None when none were. Pairs with fewer repeat
            theirs; a pair without any is its own reference, which adds nothing to attention over both.
        mask: where the image was changed, in [0, 1]; 1 for pairs that do not tell. None when none tells.
        geometry: None when no pair has both depth and cameras.
    """

    names: tuple[str, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    image: Float[Tensor, "*b 3 h w"]
    target: Float[Tensor, "*b 3 h w"]
    references: Float[Tensor, "*b r 3 h w"] | None = None
    mask: Float[Tensor, "*b 1 h w"] | None = None
    geometry: Geometry | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def frames(self) -> int | None:
        """Length of the clips; None for single views."""
        return self.image.shape[1] if self.image.ndim == 5 else None

    def frame(self, index: int) -> PairBatch:
        """One frame of every clip, as a batch of single views.

        Raises:
            ValueError: when the batch holds no clips.
        """
        if self.frames is None:
            raise ValueError("a batch of single views has no frames to choose from")
        return _changed(self, lambda value: value[:, index])

    def to(self, device: torch.device | str) -> PairBatch:
        """The same batch on a device."""
        return _changed(self, lambda value: value.to(device, non_blocking=True))


def _changed(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """A batch or geometry with every tensor in it changed."""
    parts = {f.name: getattr(value, f.name) for f in fields(value)}  # type: ignore[arg-type]
    changed = {name: change(part) for name, part in parts.items() if isinstance(part, Tensor)}
    changed |= {name: _changed(part, change) for name, part in parts.items() if isinstance(part, Geometry)}
    return replace(value, **changed)  # type: ignore[type-var]


def collate(batches: Sequence[PairBatch]) -> PairBatch:
    """Join batches of one kind; what only some of them tell is filled with "unknown" for the others."""
    masks, geometries = [batch.mask for batch in batches], [batch.geometry for batch in batches]
    if any(mask is not None for mask in masks):
        masks = [
            torch.ones_like(b.image[..., :1, :, :]) if m is None else m for b, m in zip(batches, masks, strict=True)
        ]
    if any(geometry is not None for geometry in geometries):
        geometries = [b.geometry or unknown_geometry(b) for b in batches]
    return PairBatch(
        names=tuple(chain.from_iterable(batch.names for batch in batches)),
        prompts=tuple(chain.from_iterable(batch.prompts for batch in batches)),
        seeds=tuple(chain.from_iterable(batch.seeds for batch in batches)),
        image=torch.cat([batch.image for batch in batches]),
        target=torch.cat([batch.target for batch in batches]),
        references=_joined([batch.references for batch in batches]),
        mask=_joined(masks),
        geometry=_joined_geometry(geometries),
    )


def _joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
    known = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(known) if known else None


def _joined_geometry(geometries: Sequence[Geometry | None]) -> Geometry | None:
    known = [geometry for geometry in geometries if geometry is not None]
    if not known:
        return None
    return Geometry(**{f.name: torch.cat([getattr(g, f.name) for g in known]) for f in fields(Geometry)})


def unknown_geometry(batch: PairBatch) -> Geometry:
    """Geometry that says nothing: no depth, any camera."""
    depth = torch.zeros_like(batch.image[..., :1, :, :])
    leading, references = depth.shape[:-3], 0 if batch.references is None else batch.references.shape[-4]
    several = (*leading, references)

    def eye(size: int, shape: tuple[int, ...]) -> Tensor:
        return torch.eye(size, device=depth.device).expand(*shape, size, size)

    return Geometry(
        depth=depth,
        alpha=torch.ones_like(depth),
        camera_to_world=eye(4, leading),
        intrinsics=eye(3, leading),
        reference_depth=depth.new_zeros(*several, *depth.shape[-3:]),
        reference_camera_to_world=eye(4, several),
        reference_intrinsics=eye(3, several),
    )


def as_clip(frames: PairBatch) -> PairBatch:
    """Consecutive frames, oldest first, as one clip."""
    clip = _changed(frames, lambda value: value[None])
    return replace(clip, names=frames.names[-1:], prompts=frames.prompts[-1:], seeds=frames.seeds[-1:])
