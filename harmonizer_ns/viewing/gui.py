# SPDX-License-Identifier: Apache-2.0
"""What the people in front of a viewer can choose, and the folder "Harmonizer" of a viser GUI that lets them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harmonizer_ns.enhancers.table import SPECS
from harmonizer_ns.errors import check_limits

_MAX_ERROR = 400
_SPECIAL = "\\`*_{}[]()<>#+-!|"


@dataclass(frozen=True)
class ViewSettings:
    """How frames are enhanced and shown.

    Args:
        enabled: whether frames are enhanced.
        enhancer: its name, or the folder of a checkpoint.
        strength: share of the enhanced frame in what is shown, in [0, 1].
        temporal: whether it sees its own last outputs.
        use_photos: whether it sees the nearest real photos.
        moving_limit: longest side of frames while the camera moves, in pixels; at least 16.
        split: show the render on the left, the enhanced frame on the right.
        split_at: where, in [0, 1] of the width.

    Raises:
        InputError: on a value out of its range.
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
        check_limits(self, strength=(0, 1), split_at=(0, 1), moving_limit=(16, math.inf))


class HarmonizerPanel:
    """Controls and a status line.

    Args:
        gui: of a viser server (shared by all clients) or of one client.
        initial: what the controls show first.
        on_change: called after every change by a person, on viser's thread; it should return quickly.
    """

    def __init__(self, gui: Any, initial: ViewSettings, on_change: Callable[[], None]) -> None:
        names = tuple(dict.fromkeys((initial.enhancer, *SPECS)))
        limit = initial.moving_limit
        with gui.add_folder("Harmonizer"):
            self.enabled = gui.add_checkbox("Enhance", initial_value=initial.enabled)
            self.enhancer = gui.add_dropdown("Enhancer", names, initial_value=initial.enhancer)
            self.strength = gui.add_slider("Strength", 0.0, 1.0, 0.05, initial.strength)
            self.temporal = gui.add_checkbox("Temporal", initial.temporal)
            self.use_photos = gui.add_checkbox("Use photos", initial.use_photos)
            self.moving_limit = gui.add_slider("Pixels in motion", 16, max(1024, limit), 16, limit)
            self.split = gui.add_checkbox("Before | after", initial.split)
            self.split_at = gui.add_slider("Split at", 0.0, 1.0, 0.01, initial.split_at)
            self._status = gui.add_markdown("on" if initial.enabled else "off")
        for control in self._controls().values():
            control.on_update(lambda _: on_change())

    def _controls(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ViewSettings.__dataclass_fields__}

    @property
    def settings(self) -> ViewSettings:
        """What the controls show now."""
        return ViewSettings(**{name: control.value for name, control in self._controls().items()})

    @property
    def status(self) -> str:
        """The status line, as markdown."""
        return self._status.content

    def show_speed(self, milliseconds: float, backend: str, size: tuple[int, int]) -> None:
        """Say how long a frame of ``(width, height)`` took."""
        self._say(f"{milliseconds:.0f} ms per frame, {size[0]}x{size[1]}, {backend}")

    def show_choice(self) -> None:
        """Say whether frames are to be enhanced, and nothing about those that were."""
        self._say("on" if self.enabled.value else "off")

    def show_error(self, error: Exception, seen: str = "The plain render is shown") -> None:
        """Say what is seen, and what went wrong, readably."""
        text = (str(error) or type(error).__name__).strip()[:_MAX_ERROR].replace("\n", " ")
        escaped = "".join(f"\\{letter}" if letter in _SPECIAL else letter for letter in text)
        self._say(f"**{seen}:** {escaped}")

    def _say(self, text: str) -> None:
        if self._status.content != text:
            self._status.content = text
