# SPDX-License-Identifier: Apache-2.0
"""The contract of every enhancer: ``enhance(frames, context) -> Repaired``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.finite import all_finite
from harmonizer_ns.types import Frames


@dataclass(frozen=True)
class Context:
    """What an enhancer may look at besides the frames themselves.

    Args:
        references: the nearest real photos, best first, of any size, each with the depth that the current model renders
            at the photo's camera (0 where unknown). `Frames` alone are shown to every frame; a sequence has an entry
            for each frame, None for one without photos; an empty one means no photos at all.
        history: the last enhanced outputs, newest first; each holds one for every frame, with that frame's depth and
            camera. Empty at the start of a stream.
        learning: whether the repair is learned from, not looked at. Errors then average out over views, and an
            enhancer may repair more boldly.
    """

    references: Frames | Sequence[Frames | None] = ()
    history: tuple[Frames, ...] = ()
    learning: bool = False

    @property
    def previous(self) -> Frames | None:
        """The newest of the last outputs; None at the start of a stream."""
        return self.history[0] if self.history else None

    def photos(self, frames: Frames) -> Sequence[Frames | None]:
        """The reference photos of each frame.

        Raises:
            ValueError: when there are entries for another number of frames.
        """
        if isinstance(self.references, Frames):
            return (self.references,) * len(frames)
        references = self.references or (None,) * len(frames)
        if len(references) != len(frames):
            raise ValueError(f"Context.references has {len(references)} entries for {len(frames)} frames")
        return references

    def outputs(self, frames: Frames, most: int) -> tuple[Frames, ...]:
        """The last outputs of these frames, newest first, at most so many.

        Raises:
            ValueError: when they are outputs of another number of frames.
        """
        for output in self.history[:most]:
            if len(output) != len(frames):
                raise ValueError(f"Context.history has {len(output)} frames for {len(frames)} frames")
        return self.history[:most]


@dataclass(frozen=True)
class Repaired:
    """What an enhancer returns.

    Args:
        rgb: repaired colours in [0, 1].
        confidence: the enhancer's own belief, in [0, 1], that a pixel is right.
    """

    rgb: Float[Tensor, "n 3 h w"]
    confidence: Float[Tensor, "n 1 h w"]

    def checked(self, frames: Frames) -> Repaired:
        """This output of the given frames, clamped to [0, 1] in new tensors.

        Raises:
            ValueError: on a wrong shape or values that are not finite.
        """
        for name, image, like in (("rgb", self.rgb, frames.rgb), ("confidence", self.confidence, frames.alpha)):
            if image.shape != like.shape:
                raise ValueError(f"the enhancer returned {name} of shape {tuple(image.shape)}, not {tuple(like.shape)}")
        if not all_finite([self.rgb, self.confidence]):
            name = "confidence" if all_finite([self.rgb]) else "rgb"
            raise ValueError(f"the enhancer returned {name} with NaN or infinity")
        return Repaired(self.rgb.to(frames.rgb).clamp(0.0, 1.0), self.confidence.to(frames.rgb).clamp(0.0, 1.0))


@runtime_checkable
class Enhancer(Protocol):
    """Repairs rendered frames in one step. Stateless: streams and trainers own history."""

    @property
    def max_references(self) -> int:
        """How many reference photos it looks at, the first ones of each frame; 0: none."""
        ...

    @property
    def max_context(self) -> int:
        """How many of its last outputs it looks at; 0: none."""
        ...

    @property
    def needs_geometry(self) -> bool:
        """Whether it can do little without the frames' depth and cameras."""
        ...

    @property
    def errors_repeat(self) -> bool:
        """Whether its errors are alike in all views, as those of smoothing are.

        A scene learns such errors, while those that differ from view to view, as a generator's do, average out.
        """
        ...

    def enhance(self, frames: Frames, context: Context = Context()) -> Repaired:
        """Repair a batch of frames; no gradients. Output has the frames' size and device."""
        ...

    def to(self, device: torch.device | str) -> Enhancer:
        """Move what it computes with; returns itself."""
        ...
