# SPDX-License-Identifier: Apache-2.0
"""What a viewer keeps of each person who watches, and the frames on their way to them."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from harmonizer_ns.types import Frames
from harmonizer_ns.viewing.gui import ViewSettings
from harmonizer_ns.viewing.session import EnhancedFrame

_RECENT = 2.0  # seconds for which frames in motion are counted


class Shown(NamedTuple):
    """Holds a frame on its way to a client.

    Args:
        frame: as it was rendered.
        settings: at that time.
        pose: how often the client had moved by then.
        moving: whether it was moving.
        enhanced: the same, repaired, once it is there.
        error: why it could not be repaired.
    """

    frame: Frames
    settings: ViewSettings
    pose: int
    moving: bool = False
    enhanced: EnhancedFrame | None = None
    error: Exception | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.frame.cameras.width, self.frame.cameras.height


@dataclass
class Watcher:
    """Somebody in front of a browser: how often they moved, what they see, and when they saw frames in motion."""

    client: Any
    pose: int = 0
    shown: Shown | None = None
    times: deque[float] = field(default_factory=lambda: deque(maxlen=20))
    sending: threading.Lock = field(default_factory=threading.Lock)

    def rate(self) -> float:
        """Frames per second of late, while they moved."""
        now = time.monotonic()
        recent = [moment for moment in self.times if now - moment < _RECENT]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0

    def sees_enhanced(self, pose: int) -> bool:
        """Tell whether they see an enhanced frame of this very pose."""
        return self.shown is not None and self.shown.enhanced is not None and self.shown.pose == pose
