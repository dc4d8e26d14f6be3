# SPDX-License-Identifier: Apache-2.0
"""A round repairs one view on the way to every target; what became of them is told in words and pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float, UInt8
from rich.console import Console
from rich.progress import track
from torch import Tensor

from harmonizer_ns.images import labelled, shrunk, to_float
from harmonizer_ns.types import Cameras

_TITLES = {
    "render": "target {target}, step {step}: render",
    "reference": "reference photo",
    "weight": "weight (white counts in full)",
}

Progress = Callable[[Sequence[Cameras]], Iterable[Cameras]]
"""Wraps the cameras of a round while they are worked through, as `progress_bar` does."""


@dataclass(frozen=True)
class ViewReport:
    """What became of one view of a round.

    Args:
        target: index of the target.
        mean_weight: mean trust in its pixels, 0 when skipped.
        skipped: why it was not used, or None.
        images: pictures on the CPU: ``render``, ``repaired``, ``reference`` where there is one, ``weight``, in this
            order.
    """

    target: int
    mean_weight: float = 0.0
    skipped: str | None = None
    images: dict[str, UInt8[Tensor, "c h w"]] = field(default_factory=dict)

    def pictures(self, side: float = math.inf) -> dict[str, Float[Tensor, "3 h w"]]:
        """The pictures as colours in [0, 1], their longer side at most ``side`` pixels."""
        return {name: shrunk(to_float(image), side).expand(3, -1, -1) for name, image in self.images.items()}

    def strip(self, step: int, side: float = math.inf) -> Float[Tensor, "3 h wide"]:
        """The pictures of a view that was repaired at ``step`` beside each other, each below what it is."""
        pictures = self.pictures(side)
        titles = {name: _TITLES.get(name, name).format(target=self.target, step=step) for name in pictures}
        return labelled({titles[name]: picture for name, picture in pictures.items()})


@dataclass(frozen=True)
class RoundReport:
    """What a round of repairs did.

    Args:
        step: its training step.
        position: how far it was along the way to the targets, in [0, 1]: their mean.
        views: in the order of the targets.
        failure: why the whole round was skipped, or None.
    """

    step: int
    position: float
    views: list[ViewReport]
    failure: str | None = None

    @property
    def used(self) -> list[ViewReport]:
        """The views that joined the store."""
        return [view for view in self.views if view.skipped is None]

    @property
    def mean_weight(self) -> float:
        """Mean trust over the views used; 0 when none was."""
        return sum(view.mean_weight for view in self.used) / max(1, len(self.used))

    def lines(self) -> list[str]:
        """What the round did in words, and why views were skipped, or all of it."""
        if self.failure is not None:
            return [f"Repairs at step {self.step} skipped: {self.failure}"]
        done = f"Repaired {len(self.used)} of {len(self.views)} views at step {self.step}: "
        done += f"{self.position:.0%} of the way, mean weight {self.mean_weight:.2f}"
        skipped = [f"Target {view.target} skipped: {view.skipped}" for view in self.views if view.skipped]
        return [done, *skipped]


def progress_bar(step: int, console: Console | None = None) -> Progress:
    """A bar on the terminal over the views of a round."""
    return lambda cameras: track(cameras, f"Repairing views at step {step}", console=console, transient=True)
