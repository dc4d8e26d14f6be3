# SPDX-License-Identifier: Apache-2.0
"""What the people in front of a viewer can choose, and the folder "Harmonizer" of a viser GUI that lets them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from harmonizer_ns.enhancers.table import SPECS
from harmonizer_ns.errors import check_limits

View = Literal["enhanced", "before | after", "difference", "depth", "seeds"]
VIEWS: tuple[View, ...] = get_args(View)
PLAIN_VIEWS: tuple[View, ...] = ("depth", "seeds")
"""These show no enhanced frame."""
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
        show: the enhanced frame; the render on the left and it on the right; what it changed; depth; seed points.
        split_at: where the divider between before and after is, in [0, 1] of the width.

    Raises:
        InputError: on a value out of its range.
    """

    enabled: bool = False
    enhancer: str = "builtin"
    strength: float = 1.0
    temporal: bool = True
    use_photos: bool = True
    moving_limit: int = 480
    show: View = "enhanced"
    split_at: float = 0.5

    def __post_init__(self) -> None:
        check_limits(self, strength=(0, 1), split_at=(0, 1), moving_limit=(16, math.inf))

    @property
    def wants_enhanced(self) -> bool:
        """Whether an enhanced frame is to be seen."""
        return self.enabled and self.show not in PLAIN_VIEWS

    def enhances_like(self, other: ViewSettings) -> bool:
        """Tell whether a frame that was enhanced under other settings can be shown under these."""
        seen = replace(other, enabled=self.enabled, show=self.show, strength=self.strength, split_at=self.split_at)
        return seen == self


class CameraPanel:
    """Buttons and a slider that bring the person who uses them back to the start, or to where a photo was taken.

    Args:
        gui: of a viser server.
        photos: how many there are to go to.
        go: called with the client, and the number of a photo or None for the start.
    """

    def __init__(self, gui: Any, photos: int, go: Callable[[Any, int | None], None]) -> None:
        with gui.add_folder("Camera"):
            self.home = gui.add_button("Home", hint="Back to where the viewer began.")
            self.home.on_click(lambda event: go(event.client, None))
            self.photo = None
            if photos > 1:
                self.photo = gui.add_slider(
                    "Photo", 1, photos, 1, 1, hint="Go to where this photo was taken; enhanced frames are best near it."
                )
                self.photo.on_update(lambda event: go(event.client, int(event.target.value) - 1))


class HarmonizerPanel:
    """Controls and a status line.

    Args:
        gui: of a viser server (shared by all clients) or of one client.
        initial: what the controls show first.
        on_change: called after every change by a person, on viser's thread; it should return quickly.
        views: what can be shown.
        has_photos: whether there are photos to guide the enhancer.
    """

    def __init__(
        self,
        gui: Any,
        initial: ViewSettings,
        on_change: Callable[[], None],
        views: tuple[View, ...] = VIEWS,
        has_photos: bool = True,
    ) -> None:
        names = tuple(dict.fromkeys((initial.enhancer, *SPECS)))
        limit = initial.moving_limit
        with gui.add_folder("Harmonizer"):
            self._status = gui.add_markdown("on" if initial.enabled else "off")
            self.enabled = gui.add_checkbox("Enhance", initial_value=initial.enabled, hint="Repair what is rendered.")
            self.show = gui.add_dropdown(
                "Show",
                views,
                initial_value=initial.show,
                hint="The enhanced frame; the render beside it, with a divider; what it changed, five times enlarged; "
                "and where they are offered, depth and the points that the splats began from.",
            )
            self.split_at = gui.add_slider(
                "Divider",
                0.0,
                1.0,
                0.01,
                initial.split_at,
                visible=initial.show == "before | after",
                hint="Drag it to move the divider between before and after.",
            )
            self.enhancer = gui.add_dropdown("Enhancer", names, initial_value=initial.enhancer, hint="Who repairs.")
            self.strength = gui.add_slider(
                "Strength", 0.0, 1.0, 0.05, initial.strength, hint="0 is the render, 1 the enhanced frame."
            )
            self.temporal = gui.add_checkbox(
                "Temporal", initial_value=initial.temporal, hint="Keep pictures steady from frame to frame."
            )
            self.use_photos = gui.add_checkbox(
                "Use photos",
                initial_value=initial.use_photos and has_photos,
                disabled=not has_photos,
                hint="Show the enhancer the nearest real photos."
                if has_photos
                else "No photos are known here: give their capture with --data.",
            )
            self.moving_limit = gui.add_slider(
                "Pixels in motion",
                16,
                max(1024, limit),
                16,
                limit,
                hint="The longest side of frames while the camera moves; at rest they are larger.",
            )
        for control in self._controls().values():  # one callback each: of several, old viser may call the last alone
            control.on_update(lambda _: self._changed(on_change))

    def _changed(self, on_change: Callable[[], None]) -> None:
        self.split_at.visible = self.show.value == "before | after"
        on_change()

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
        """Say how long a frame of ``(width, height)`` took to enhance."""
        self._say(f"{milliseconds:.0f} ms per frame, {size[0]}x{size[1]}, {backend}")

    def show_motion(self, rate: float, size: tuple[int, int]) -> None:
        """Say how many renders of ``(width, height)`` a second are shown while the camera moves."""
        self._say(f"{'on' if self.enabled.value else 'off'}, {rate:.0f} fps in motion, {size[0]}x{size[1]}")

    def show_work(self, size: tuple[int, int]) -> None:
        """Say that the render is seen until its enhanced frame is there."""
        self._say(f"working on {size[0]}x{size[1]}: the render is shown until then")

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
