# SPDX-License-Identifier: Apache-2.0
"""Loose frames go through an enhancer, in batches or as a stream.

Files say nothing about geometry: there is no depth, and the cameras all look alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from harmonizer_ns.devices import sent
from harmonizer_ns.enhancers.base import Context, Enhancer
from harmonizer_ns.enhancers.stream import EnhancerStream
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import resize, to_float
from harmonizer_ns.types import Frames, as_frames

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
        load: gives its colours; may raise InputError.
        repaired: gives its repaired colours when they are there already.
    """

    number: int
    file: str
    load: Callable[[], UInt8[Tensor, "3 h w"]]
    repaired: Callable[[], UInt8[Tensor, "3 h w"]] | None = None


@dataclass
class FrameEnhancer:
    """Feeds frames to an enhancer: in batches, or one by one with its last outputs where it looks at these.

    Args:
        enhancer: repairs.
        references: finds the photos.
        batch: most frames at once, for enhancers that take each by itself.
        temporal: whether frames follow each other in time.
        device: where the enhancer is; frames go there as bytes, and its last outputs stay there.

    Raises:
        InputError: on an empty batch.
    """

    enhancer: Enhancer
    references: References
    batch: int = 4
    temporal: bool = True
    device: str = "cpu"
    failures: list[str] = field(default_factory=list)
    """What was wrong with frames that were left out."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"a batch has at least 1 frame, not {self.batch}")

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Item, Float[Tensor, "3 h w"], Float[Tensor, "3 h w"]]]:
        """Item, frame and repaired frame of everything that is still to be done and can be read, in order."""
        sees_outputs = self.temporal and not self.enhancer.needs_geometry and self.enhancer.max_context > 0
        return self._one_by_one(items) if sees_outputs else self._in_batches(items)

    def _one_by_one(self, items: Iterable[Item]) -> Iterator[tuple[Item, Tensor, Tensor]]:
        length = self.enhancer.max_context
        stream = EnhancerStream(self.enhancer, length, is_colour_cut, steadies=False)
        done: deque[Item] = deque(maxlen=length)  # read only if a frame that is still to be done follows
        for item in items:
            if item.repaired is not None:
                done.append(item)
                continue
            rgb = self._loaded(item)
            if rgb is None:
                continue
            while done:
                self._remember(stream, done.popleft())
            repaired = stream.enhance(as_frames(rgb), self._photos(item))
            yield item, rgb, repaired.rgb[0]

    def _remember(self, stream: EnhancerStream, item: Item) -> None:
        rgb = self._loaded(item)
        if rgb is not None and item.repaired is not None:
            stream.remember(as_frames(rgb), self._sent(item.repaired())[None])

    def _in_batches(self, items: Iterable[Item]) -> Iterator[tuple[Item, Tensor, Tensor]]:
        pending = ((item, self._loaded(item)) for item in items if item.repaired is None)
        readable = ((item, rgb) for item, rgb in pending if rgb is not None)
        for _, group in groupby(readable, key=lambda pair: pair[1].shape):
            for batch in _batched(group, self.batch):
                for (item, rgb), repaired in zip(batch, self._enhanced(batch), strict=True):
                    yield item, rgb, repaired

    def _enhanced(self, batch: list[tuple[Item, Tensor]]) -> Float[Tensor, "n 3 h w"]:
        frames = as_frames(torch.stack([rgb for _, rgb in batch]))
        return self.enhancer.enhance(frames, Context([self._photos(item) for item, _ in batch])).rgb

    def _photos(self, item: Item) -> Frames | None:
        return self.references(item.number, Path(item.file).stem)

    def _loaded(self, item: Item) -> Float[Tensor, "3 h w"] | None:
        try:
            return self._sent(item.load())
        except InputError as error:
            self.failures.append(str(error))
            return None

    def _sent(self, image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
        return to_float(sent(image, self.device))


def is_colour_cut(before: Frames, after: Frames) -> bool:
    """Whether two frames in a row are from different shots by their colours; frames of different sizes are."""
    if before.rgb.shape != after.rgb.shape:
        return True
    small = [resize(rgb, *(max(1, side // 16) for side in rgb.shape[-2:])) for rgb in (before.rgb, after.rgb)]
    return float((small[0] - small[1]).abs().mean()) > CUT


def _batched(items: Iterable[tuple[Item, Tensor]], size: int) -> Iterator[list[tuple[Item, Tensor]]]:
    """Lists of up to ``size`` (``itertools.batched`` came with Python 3.12)."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
