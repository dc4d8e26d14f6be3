# SPDX-License-Identifier: Apache-2.0
"""A round repairs one view on the way to every target; what became of them is told in words and small pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from harmonizer_ns.types import Cameras

Progress = Callable[[Sequence[Cameras]], Iterable[Cameras]]
"""Wraps the cameras of a round while they are worked through, as `progress_bar` does."""


@dataclass(frozen=True)
class ViewReport:
    """What became of one view of a round.

    Args:
        target: index of the target.
        mean_weight: mean trust in its pixels, 0 when skipped.
        skipped: why it was not used, or None.
        images: small pictures on the CPU, ``c h w`` in [0, 1]: ``render``, ``repaired``, ``reference``, ``weight``,
            in this order.
    """

    target: int
    mean_weight: float = 0.0
    skipped: str | None = None
    images: dict[str, Float[Tensor, "c h w"]] = field(default_factory=dict)


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
