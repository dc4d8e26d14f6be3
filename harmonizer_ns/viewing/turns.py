# SPDX-License-Identifier: Apache-2.0
"""A lock for training and viewing: whoever asks first is first, so neither starves the other."""

from __future__ import annotations

import threading
from types import TracebackType


class Turns:
    """A ticket lock. Python's own lock lets a training loop take it again before a waiting viewer wakes up.

    Not to be entered twice by one thread.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._drawn = self._served = 0

    def __enter__(self) -> None:
        with self._changed:
            ticket, self._drawn = self._drawn, self._drawn + 1
            self._changed.wait_for(lambda: self._served == ticket)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._served += 1
            self._changed.notify_all()
