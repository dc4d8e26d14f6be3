# SPDX-License-Identifier: Apache-2.0
"""The folder "Harmonizer" of a viser GUI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harmonizer_ns.viewing.settings import ViewSettings

_MAX_ERROR = 400
_SPECIAL = "\\`*_{}[]()<>#+-!|"


class HarmonizerPanel:
    """Controls and a status line.

    Args:
        gui: of a viser server (shared by all clients) or of one client.
        enhancers: names to choose from.
        initial: what the controls show first.
        on_change: called after every change by a person, on viser's thread; it should return quickly.
    """

    def __init__(
        self, gui: Any, enhancers: Sequence[str], initial: ViewSettings, on_change: Callable[[], None] = lambda: None
    ) -> None:
        names = tuple(dict.fromkeys((initial.enhancer, *enhancers)))
        limit = initial.moving_limit
        with gui.add_folder("Harmonizer"):
            self.enabled = gui.add_checkbox("Enhance", initial.enabled)
            self.enhancer = gui.add_dropdown("Enhancer", names, initial.enhancer)
            self.strength = gui.add_slider("Strength", 0.0, 1.0, 0.05, initial.strength)
            self.temporal = gui.add_checkbox("Temporal", initial.temporal)
            self.use_photos = gui.add_checkbox("Use photos", initial.use_photos)
            self.moving_limit = gui.add_slider("Pixels in motion", 16, max(1024, limit), 16, limit)
            self.split = gui.add_checkbox("Before | after", initial.split)
            self.split_at = gui.add_slider("Split at", 0.0, 1.0, 0.01, initial.split_at)
            self._status = gui.add_markdown("off")
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

    def show_off(self) -> None:
        """Say that frames are not enhanced."""
        self._say("off")

    def show_error(self, error: Exception) -> None:
        """Say what went wrong, readably."""
        text = (str(error) or type(error).__name__).strip()[:_MAX_ERROR].replace("\n", " ")
        escaped = "".join(f"\\{letter}" if letter in _SPECIAL else letter for letter in text)
        self._say(f"**The plain render is shown:** {escaped}")

    def _say(self, text: str) -> None:
        if self._status.content != text:
            self._status.content = text
