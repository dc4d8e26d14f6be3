# SPDX-License-Identifier: Apache-2.0
"""Where a viewer joins training."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class TrainingViewer(Protocol):
    """Shows the scene while it trains. Other threads may render only while nobody holds `training`."""

    def training(self) -> AbstractContextManager:
        """Held while a step changes the splats; waits while the viewer is paused or renders."""
        ...

    def after_step(self, step: int, rays: int) -> None:
        """Told after every step how many pixels it learned from."""
        ...

    def complete(self) -> None:
        """Called once training has ended; may block while somebody watches."""
        ...


class NoViewer:
    """Shows nothing."""

    def training(self) -> AbstractContextManager:
        """Never waits."""
        return nullcontext()

    def after_step(self, step: int, rays: int) -> None:
        """Does nothing."""

    def complete(self) -> None:
        """Does nothing."""
