# SPDX-License-Identifier: Apache-2.0
"""A thread that works for all clients of a viewer, and the lock that it shares with training."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class _Job:
    due: float
    work: Callable[[], Any]
    deliver: Callable[[Any], None]


class LatestWorker:
    """Runs jobs on one daemon thread; a client's new job replaces its waiting one, so nothing queues up.

    Clients take turns. What a job raises goes to ``on_error`` and the thread goes on.

    Args:
        on_error: told which client's job failed, and how; called on the worker's thread.
    """

    def __init__(self, on_error: Callable[[Hashable, Exception], None]) -> None:
        self._on_error = on_error
        self._slots: dict[Hashable, _Job] = {}
        self._running: Hashable = None
        self._dropped = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="harmonizer-viewer", daemon=True)
        self._thread.start()

    def submit(
        self,
        client: Hashable,
        work: Callable[[], Any],
        deliver: Callable[[Any], None],
        *,
        delay: float = 0.0,
        replace: bool = True,
    ) -> None:
        """Work for a client soon; ``deliver`` gets the result unless the client has been forgotten by then.

        Args:
            client: whose slot it takes.
            work: what to do.
            deliver: where its result goes; called on the worker's thread.
            delay: seconds to wait; a newer job takes its place meanwhile.
            replace: whether a waiting job of this client is replaced, or this one dropped.
        """
        with self._changed:
            if not self._closed and (replace or client not in self._slots):
                self._slots[client] = _Job(time.monotonic() + delay, work, deliver)
                self._changed.notify_all()

    def forget(self, client: Hashable) -> None:
        """Drop a client's waiting job, and the result of its running one."""
        with self._changed:
            self._slots.pop(client, None)
            self._dropped |= client == self._running

    def close(self, timeout: float = 5.0) -> None:
        """Stop after the running job, if there is one; later jobs are ignored."""
        with self._changed:
            self._closed = True
            self._slots.clear()
            self._dropped = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            client, job = taken
            try:
                result = job.work()
                if not self._dropped:
                    job.deliver(result)
            except Exception as error:  # whatever it is, the other clients go on; the caller is told
                if not self._dropped:
                    self._on_error(client, error)

    def _take(self) -> tuple[Hashable, _Job] | None:
        """Wait for a job that is due; None once closed."""
        with self._changed:
            self._running = None
            while not self._closed:
                now = time.monotonic()
                client = next((name for name, job in self._slots.items() if job.due <= now), None)
                if client is not None:
                    self._running, self._dropped = client, False
                    return client, self._slots.pop(client)
                waiting = min((job.due - now for job in self._slots.values()), default=None)
                self._changed.wait(waiting)
            return None


class FairLock:
    """A lock that serves training and viewing in the order in which they ask, so neither starves the other.

    Python's own lock lets a training loop take it again before a waiting viewer wakes up.

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
