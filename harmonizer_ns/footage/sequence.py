# SPDX-License-Identifier: Apache-2.0
"""Feeding loose frames to an enhancer, in batches or as a stream.

Files say nothing about geometry: there is no depth, and the cameras all look alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.base import Context, Enhancer, Repaired
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import resize
from harmonizer_ns.types import Cameras, Frames, cat_frames

CUT = 0.15
"""Mean change of colour from one frame to the next from which they count as different shots."""

References = Callable[[int, str], Frames | None]
"""The reference photos for a frame, by its number and its name without extension."""


@dataclass(frozen=True)
class Item:
    """A frame on its way through the enhancer.

    Args:
        number: counted from 0.
        file: name that its file has or would have.
        load: gives its colours, ``3 h w`` in [0, 1]; may raise InputError.
        repaired: gives its repaired colours when they are there already.
    """

    number: int
    file: str
    load: Callable[[], Tensor]
    repaired: Callable[[], Tensor] | None = None


@dataclass
class FrameEnhancer:
    """Feeds frames to an enhancer: in batches, or one by one with its last outputs where it looks at these.

    Args:
        enhancer: repairs.
        references: finds the photos.
        batch: most frames at once, for enhancers that take each by itself.
        temporal: whether frames follow each other in time.

    Raises:
        InputError: on an empty batch.
    """

    enhancer: Enhancer
    references: References
    batch: int = 4
    temporal: bool = True
    failures: list[str] = field(default_factory=list)
    """What was wrong with frames that were left out."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"a batch has at least 1 frame, not {self.batch}")

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Item, Float[Tensor, "3 h w"], Float[Tensor, "3 h w"]]]:
        """Item, frame and repaired frame of everything that is still to be done and can be read, in order."""
        length = getattr(self.enhancer, "max_context", 0) if self.temporal else 0
        return self._one_by_one(items, length) if length else self._in_batches(items)

    def _one_by_one(self, items: Iterable[Item], length: int) -> Iterator[tuple[Item, Tensor, Tensor]]:
        history: deque[Frames | Callable[[], Tensor]] = deque(maxlen=length)
        before: Tensor | Item | None = None
        for item in items:
            if item.repaired is not None:
                history.appendleft(item.repaired)
                before = item
                continue
            rgb = self._loaded(item)
            if rgb is None:
                continue
            before = self._loaded(before) if isinstance(before, Item) else before
            if before is not None and is_cut(before, rgb):
                history.clear()
            before = rgb
            outputs = [output if isinstance(output, Frames) else as_frames(output()) for output in history]
            history = deque(outputs, maxlen=length)
            repaired = self._enhance([(item, rgb)], tuple(outputs))
            history.appendleft(as_frames(repaired.rgb[0]))
            yield item, rgb, repaired.rgb[0]

    def _in_batches(self, items: Iterable[Item]) -> Iterator[tuple[Item, Tensor, Tensor]]:
        pending = ((item, self._loaded(item)) for item in items if item.repaired is None)
        readable = ((item, rgb) for item, rgb in pending if rgb is not None)
        for _, group in groupby(readable, key=lambda pair: pair[1].shape):
            for batch in _batched(group, self.batch):
                for (item, rgb), repaired in zip(batch, self._enhance(batch, ()).rgb, strict=True):
                    yield item, rgb, repaired

    def _enhance(self, batch: list[tuple[Item, Tensor]], history: tuple[Frames, ...]) -> Repaired:
        frames = cat_frames([as_frames(rgb) for _, rgb in batch])
        references = tuple(self.references(item.number, Path(item.file).stem) for item, _ in batch)
        return self.enhancer.enhance(frames, Context(references=references, history=history))

    def _loaded(self, item: Item) -> Float[Tensor, "3 h w"] | None:
        try:
            return item.load()
        except InputError as error:
            self.failures.append(str(error))
            return None


def as_frames(rgb: Float[Tensor, "3 h w"]) -> Frames:
    """A batch of one without geometry: opaque, no depth, a camera at the origin."""
    height, width = rgb.shape[-2:]
    focal = float(max(height, width))
    intrinsics = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]])
    cameras = Cameras(torch.eye(4)[None], intrinsics, width, height)
    return Frames(rgb[None], torch.ones(1, 1, height, width), torch.zeros(1, 1, height, width), cameras)


def is_cut(before: Float[Tensor, "3 h w"], after: Float[Tensor, "3 h w"]) -> bool:
    """Whether two frames in a row are from different shots; frames of different sizes are."""
    if before.shape != after.shape:
        return True
    small = [resize(frame[None], *(max(1, side // 16) for side in frame.shape[-2:])) for frame in (before, after)]
    return float((small[0] - small[1]).abs().mean()) > CUT


def _batched(items: Iterable[tuple[Item, Tensor]], size: int) -> Iterator[list[tuple[Item, Tensor]]]:
    """Lists of up to ``size`` (``itertools.batched`` came with Python 3.12)."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
