# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and Ctrl-C stop a run after its current step, and a round of repairs before its next view."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


class InterruptionError(Exception):
    """The user has asked a run to stop in the middle of something that leaves no trace and begins anew."""


class Interruption:
    """Takes the first SIGTERM or Ctrl-C in its block as a wish to stop after the step; a second one stops at once.

    Outside the main thread, where Python takes no signal handlers, it only watches.
    """

    def __init__(self) -> None:
        self.asked = False
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def watched(self, items: Iterable[T]) -> Iterator[T]:
        """Give the items until somebody asks to stop.

        Raises:
            InterruptionError: then.
        """
        for item in items:
            if self.asked:
                raise InterruptionError
            yield item

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, self._earlier[number])
