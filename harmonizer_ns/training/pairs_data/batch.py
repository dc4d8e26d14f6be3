# SPDX-License-Identifier: Apache-2.0
"""What training sees of pairs: one pair loaded, whole or cropped, and batches of views or clips of one size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from harmonizer_ns.images import load_image
from harmonizer_ns.pairs import Pair
from harmonizer_ns.training.pairs_data.crops import Window, covered, following
from harmonizer_ns.types import Cameras, Frames

T = TypeVar("T")


@dataclass(frozen=True)
class Geometry:
    """Depth and cameras of a batch. Where a pair has none, depth is 0 (unknown) everywhere.

    Leading dimensions are those of the batch's images: ``b``, or ``b t`` for clips.

    Args:
        depth: z-depth in scene units, 0 where unknown.
        camera_to_world: OpenCV axes.
        intrinsics: in pixels of the crop.
    """

    depth: Float[Tensor, "*b 1 h w"]
    camera_to_world: Float[Tensor, "*b 4 4"]
    intrinsics: Float[Tensor, "*b 3 3"]

    def cameras(self) -> Cameras:
        """The cameras, in one row."""
        height, width = self.depth.shape[-2:]
        return Cameras(self.camera_to_world.reshape(-1, 4, 4), self.intrinsics.reshape(-1, 3, 3), width, height)


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


class LoadedPair(NamedTuple):
    """A whole pair. Without depth and cameras depth is 0 everywhere, and there are no references.

    Args:
        render: the damaged image.
        target: what it should look like.
        references: photos with rendered depth, best first.
    """

    render: Frames
    target: Float[Tensor, "1 3 h w"]
    references: Frames | None


def load_pair(pair: Pair, references: int = 0) -> LoadedPair:
    """A whole pair with at most so many of its references."""
    rgb, target = load_image(pair.image)[None], load_image(pair.target_image)[None]
    depths = load_file(pair.depth) if pair.has_geometry else {}  # type: ignore[arg-type]
    depth = depths.get("depth", torch.zeros_like(rgb[0, 0])).float()[None, None]
    alpha = depths.get("alpha", torch.ones_like(rgb[0, 0])).float()[None, None]
    height, width = rgb.shape[-2:]
    cameras = pair.cameras if pair.has_geometry and pair.cameras else _anywhere(width, height)
    render, count = Frames(rgb, alpha, depth, cameras[0]), min(references, len(cameras) - 1)
    if not count:
        return LoadedPair(render, target, None)
    photos = torch.stack([load_image(path) for path in pair.references[:count]])
    others = depths.get("reference_depths", torch.zeros_like(photos[:, 0])).float()[:count, None]
    return LoadedPair(render, target, Frames(photos, torch.ones_like(others), others, cameras[1 : 1 + count]))


def _anywhere(width: int, height: int) -> Cameras:
    return Cameras(torch.eye(4)[None], torch.eye(3)[None], width, height)


def load_view(pair: Pair, window: Window, references: int) -> PairBatch:
    """A cropped pair as a batch of one.

    Args:
        pair: what to load.
        window: of the image. Photos are cut where they show the same, as far as geometry tells.
        references: photos to show; fewer are repeated, and without any the image itself is shown.
    """
    loaded = load_pair(pair)
    render, there = loaded.render, len(pair.references)
    photos = [
        _photo(pair, i % there, render, window) if there else window.cut(render.rgb)[0] for i in range(references)
    ]
    return PairBatch(
        names=(pair.name,),
        prompts=(pair.prompt,),
        seeds=(0,),
        image=window.cut(render.rgb),
        target=window.cut(loaded.target),
        references=torch.stack(photos)[None] if photos else None,
        mask=window.cut(load_image(pair.mask)[None].mean(1, keepdim=True)) if pair.mask else None,
        geometry=_geometry(render, window) if pair.has_geometry else None,
    )


def _geometry(view: Frames, window: Window) -> Geometry:
    cameras = view.cameras
    return Geometry(window.cut_nearest(view.depth), cameras.camera_to_world, window.intrinsics(cameras.intrinsics))


def _photo(pair: Pair, index: int, render: Frames, window: Window) -> Float[Tensor, "3 h w"]:
    """The part of a reference that shows what the window shows."""
    photo = covered(load_image(pair.references[index]), render.cameras.height, render.cameras.width)
    if pair.has_geometry and pair.cameras:
        window = following(window, render, pair.cameras[1 + index])
    return window.cut(photo[None])[0]


def collate(batches: Sequence[PairBatch]) -> PairBatch:
    """Join batches of one kind; what only some of them tell is filled with "unknown" for the others."""
    masks, geometries = [batch.mask for batch in batches], [batch.geometry for batch in batches]
    if any(mask is not None for mask in masks):
        masks = [
            torch.ones_like(b.image[..., :1, :, :]) if m is None else m for b, m in zip(batches, masks, strict=True)
        ]
    if any(geometry is not None for geometry in geometries):
        geometries = [b.geometry or _unknown_geometry(b) for b in batches]
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


def _unknown_geometry(batch: PairBatch) -> Geometry:
    """Geometry that says nothing: no depth, any camera."""
    depth = torch.zeros_like(batch.image[..., :1, :, :])
    eyes = (torch.eye(size, device=depth.device).expand(*depth.shape[:-3], size, size) for size in (4, 3))
    return Geometry(depth, *eyes)


def as_clip(frames: PairBatch) -> PairBatch:
    """Consecutive frames, oldest first, as one clip."""
    clip = _changed(frames, lambda value: value[None])
    return replace(clip, names=frames.names[-1:], prompts=frames.prompts[-1:], seeds=frames.seeds[-1:])
