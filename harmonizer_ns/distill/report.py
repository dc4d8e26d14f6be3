# SPDX-License-Identifier: Apache-2.0
"""What a round of repairs did, for logs and viewers."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.images import beside
from harmonizer_ns.types import Cameras

PICTURES = ("render", "repaired", "reference", "weight")
"""Order of the pictures in a strip, left to right."""


@dataclass(frozen=True)
class ViewReport:
    """One view of a round.

    Args:
        target: index of the target.
        position: how far along its way the view was, in [0, 1].
        camera: where it was rendered from.
        mean_weight: mean trust in its pixels, 0 when skipped.
        skipped: why it was not used, or None.
        images: small pictures on the CPU, ``c h w`` in [0, 1]: ``render``, ``repaired``, ``reference``, ``weight``.
    """

    target: int
    position: float
    camera: Cameras
    mean_weight: float = 0.0
    skipped: str | None = None
    images: dict[str, Float[Tensor, "c h w"]] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundReport:
    """One round: its training step and its views in the order of the targets."""

    step: int
    views: list[ViewReport]

    @property
    def used(self) -> list[ViewReport]:
        """The views that joined the store."""
        return [view for view in self.views if view.skipped is None]

    @property
    def mean_weight(self) -> float:
        """Mean trust over the views used; 0 when none was."""
        return sum(view.mean_weight for view in self.used) / max(1, len(self.used))

    @property
    def mean_position(self) -> float:
        """How far the round was along the way to the targets, in [0, 1]."""
        return sum(view.position for view in self.views) / max(1, len(self.views))


def picture_strip(images: dict[str, Float[Tensor, "c h w"]]) -> Float[Tensor, "3 h wide"]:
    """The pictures of one view side by side, in the order of `PICTURES`; missing ones are left out."""
    return beside([images[name] for name in PICTURES if name in images])
