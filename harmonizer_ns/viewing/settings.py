# SPDX-License-Identifier: Apache-2.0
"""What the people in front of a viewer can choose."""

from __future__ import annotations

from dataclasses import dataclass

REST_SHARE = 0.01
"""Share of the time that frames for clients at rest may take while a model trains: it should not feel who watches."""


@dataclass(frozen=True)
class ViewSettings:
    """How frames are enhanced and shown.

    Args:
        enabled: whether frames are enhanced.
        enhancer: its name, or the folder of a checkpoint.
        strength: share of the enhanced frame in what is shown, in [0, 1].
        temporal: whether it sees its own last outputs.
        use_photos: whether it sees the nearest real photos.
        moving_limit: longest side of frames while the camera moves, in pixels.
        split: show the render on the left, the enhanced frame on the right.
        split_at: where, in [0, 1] of the width.

    Raises:
        ValueError: on a value out of its range.
    """

    enabled: bool = False
    enhancer: str = "builtin"
    strength: float = 1.0
    temporal: bool = True
    use_photos: bool = True
    moving_limit: int = 480
    split: bool = False
    split_at: float = 0.5

    def __post_init__(self) -> None:
        for name in ("strength", "split_at"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"ViewSettings.{name} is {getattr(self, name)}, expected a share in [0, 1]")
        if self.moving_limit < 16:
            raise ValueError(f"ViewSettings.moving_limit is {self.moving_limit}, expected at least 16 pixels")


def limited(width: int, height: int, limit: int) -> tuple[int, int]:
    """A size of the same aspect whose longest side is at most ``limit``."""
    scale = min(1.0, limit / max(width, height, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))
