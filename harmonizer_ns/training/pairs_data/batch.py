# SPDX-License-Identifier: Apache-2.0
"""Training sees pairs loaded, whole or cropped, and joined to batches of views or clips of one size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.images import load_image
from harmonizer_ns.loaded_pairs import load_pair
from harmonizer_ns.pairs import Pair
from harmonizer_ns.training.pairs_data.crops import Window, covered, following
from harmonizer_ns.types import Cameras, Frames


@dataclass(frozen=True)
class PairBatch:
    """Holds views of one size, colours in [0, 1]; clips have a dimension ``t`` after ``b`` everywhere, oldest first.

    Args:
        names: of the pairs; of a clip, its last frame's.
        seeds: a random number of each item, for what a loss draws: the same however items are spread over processes.
        image: damaged.
        target: what it should look like.
        depth: z-depth in scene units, 0 where unknown; everywhere for pairs without both depth and cameras.
        camera_to_world: OpenCV axes; any where depth is unknown.
        intrinsics: in pixels of the crop; likewise.
        references: real photos, as many for each item as were asked for; None when none were. Pairs with fewer repeat
            theirs; a pair without any is its own reference, which adds nothing to attention over both.
    """

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    image: Float[Tensor, "*b 3 h w"]
    target: Float[Tensor, "*b 3 h w"]
    depth: Float[Tensor, "*b 1 h w"]
    camera_to_world: Float[Tensor, "*b 4 4"]
    intrinsics: Float[Tensor, "*b 3 3"]
    references: Float[Tensor, "*b r 3 h w"] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def frames(self) -> int | None:
        """Give the length of the clips; None for single views."""
        return self.image.shape[1] if self.image.ndim == 5 else None

    def frame(self, index: int) -> PairBatch:
        """Take one frame of every clip, as a batch of single views.

        Raises:
            ValueError: when the batch holds no clips.
        """
        if self.frames is None:
            raise ValueError("a batch of single views has no frames to choose from")
        return self._changed(lambda value: value[:, index])

    def cameras(self) -> Cameras:
        """Give the cameras, in one row."""
        height, width = self.image.shape[-2:]
        return Cameras(self.camera_to_world.reshape(-1, 4, 4), self.intrinsics.reshape(-1, 3, 3), width, height)

    def to(self, device: torch.device | str) -> PairBatch:
        """Copy the batch to a device."""
        return self._changed(lambda value: value.to(device, non_blocking=True))

    def pin_memory(self) -> PairBatch:
        """Copy the batch into memory from which a GPU copies without help; a `DataLoader` asks for it."""
        return self._changed(Tensor.pin_memory)

    def as_clip(self) -> PairBatch:
        """Take consecutive frames, oldest first, as one clip."""
        return replace(self._changed(lambda value: value[None]), names=self.names[-1:], seeds=self.seeds[-1:])

    def _changed(self, change: Callable[[Tensor], Tensor]) -> PairBatch:
        """Change every tensor."""
        return replace(self, **{name: change(part) for name, part in vars(self).items() if isinstance(part, Tensor)})


def load_view(pair: Pair, window: Window, references: int) -> PairBatch:
    """Load a cropped pair as a batch of one.

    Args:
        pair: what to load.
        window: of the image. Photos are cut where they show the same, as far as geometry tells.
        references: photos to show; fewer are repeated, and without any the image itself is shown.
    """
    loaded = load_pair(pair)
    render, cameras, there = loaded.render, loaded.render.cameras, len(pair.references)
    photos = [
        _photo(pair, i % there, render, window) if there else window.cut(render.rgb)[0] for i in range(references)
    ]
    return PairBatch(
        names=(pair.name,),
        seeds=(0,),
        image=window.cut(render.rgb),
        target=window.cut(loaded.target),
        depth=window.cut_nearest(render.depth),
        camera_to_world=cameras.camera_to_world,
        intrinsics=window.intrinsics(cameras.intrinsics) if pair.has_geometry else cameras.intrinsics,
        references=torch.stack(photos)[None] if photos else None,
    )


def _photo(pair: Pair, index: int, render: Frames, window: Window) -> Float[Tensor, "3 h w"]:
    """Cut out the part of a reference that shows what the window shows."""
    photo = covered(load_image(pair.references[index]), render.cameras.height, render.cameras.width)
    if pair.has_geometry and pair.cameras:
        window = following(window, render, pair.cameras[1 + index])
    return window.cut(photo[None])[0]


def collate(batches: Sequence[PairBatch]) -> PairBatch:
    """Join batches of one kind."""
    return PairBatch(**{f.name: _joined([getattr(batch, f.name) for batch in batches]) for f in fields(PairBatch)})


def _joined(parts: Sequence[Any]) -> Any:
    """Join tuples or tensors; None when there are none."""
    if isinstance(parts[0], tuple):
        return tuple(chain.from_iterable(parts))
    return None if parts[0] is None else torch.cat(list(parts))
