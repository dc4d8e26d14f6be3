# SPDX-License-Identifier: Apache-2.0
"""The contract of every enhancer: ``enhance(frames, context) -> Repaired``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.types import Frames


@dataclass(frozen=True)
class Context:
    """What an enhancer may look at besides the frames themselves.

    Args:
        references: one entry for each frame: the nearest real photos, best first, each with the depth that the
            current model renders at the photo's camera (0 where unknown). An entry may hold any number of photos,
            whose size may differ from the frame's. ``None`` for a frame, or an empty tuple, means no reference.
        previous: the last enhanced output for each frame, with that frame's depth and camera; None at the start
            of a stream.
        history: the last enhanced outputs, newest first: ``history[0]`` is ``previous``. Either may be left out and
            follows from the other.
        learning: whether the repair is learned from, not looked at. Errors then average out over views, and an
            enhancer may repair more boldly.

    Raises:
        ValueError: when ``previous`` is not the newest of ``history``.
    """

    references: tuple[Frames | None, ...] = ()
    previous: Frames | None = None
    history: tuple[Frames, ...] = ()
    learning: bool = False

    def __post_init__(self) -> None:
        if self.previous is None and self.history:
            object.__setattr__(self, "previous", self.history[0])
        elif self.previous is not None and not self.history:
            object.__setattr__(self, "history", (self.previous,))
        elif self.previous is not None and self.previous is not self.history[0]:
            raise ValueError("Context.previous should be the newest of Context.history")


@dataclass(frozen=True)
class Repaired:
    """What an enhancer returns.

    Args:
        rgb: repaired colours in [0, 1].
        confidence: the enhancer's own belief, in [0, 1], that a pixel is right.
    """

    rgb: Float[Tensor, "n 3 h w"]
    confidence: Float[Tensor, "n 1 h w"]


@runtime_checkable
class Enhancer(Protocol):
    """Repairs rendered frames in one step. Stateless: streams and trainers own history."""

    @property
    def max_references(self) -> int:
        """How many reference photos it can use; 0 means that it ignores them."""
        ...

    def enhance(self, frames: Frames, context: Context = Context()) -> Repaired:
        """Repair a batch of frames; no gradients. Output has the frames' size and device."""
        ...
