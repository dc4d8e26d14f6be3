# SPDX-License-Identifier: Apache-2.0
"""Long work tells how far it is: a bar on a terminal, and where there is none a line now and then."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

T = TypeVar("T")
Tell = Callable[[int, int, str], None]
"""Takes how many are done, of how many, and of what."""
_listener: ContextVar[Tell | None] = ContextVar("listener", default=None)

PART, LONGEST, SHORTEST = 1 / 20, 300.0, 10.0
"""A line is due after this part of the work, or after so many seconds; but not before so many seconds."""
_REFRESH = 0.5
"""Seconds between changes of the bar: figures are asked for no more often, for on a GPU that waits for the step."""

Figures = Mapping[str, float]
"""Name -> value; whole numbers are told without decimals."""


class Pace:
    """Says when another line about long work is due."""

    def __init__(self) -> None:
        self._time, self._share = time.monotonic(), 0.0

    def due(self, share: float) -> bool:
        """Whether to tell that this share of the work, in [0, 1], is done; if so, the next line waits."""
        now = time.monotonic()
        waited = now - self._time
        if waited < SHORTEST or (share - self._share < PART and waited < LONGEST):
            return False
        self._time, self._share = now, share
        return True


@contextmanager
def listening(tell: Tell) -> Iterator[None]:
    """Whatever is `counted` inside the block is told."""
    token = _listener.set(tell)
    try:
        yield
    finally:
        _listener.reset(token)


def counter(total: int, what: str) -> Callable[[], None]:
    """Make a function that any thread calls when one more of ``total`` is done; who is `listening` now is told."""
    tell, lock, numbers = _listener.get(), threading.Lock(), itertools.count(1)

    def one_more() -> None:
        if tell:
            with lock:
                tell(next(numbers), total, what)

    return one_more


def counted(items: Collection[T], what: str) -> Iterator[T]:
    """Give the items of long work; who is `listening` is told how many are done."""
    one_more = counter(len(items), what)
    for item in items:
        yield item
        one_more()


class Counts:
    """Says now and then how far each sort of work is that is `counted` inside the block, and how long the rest takes.

    Args:
        say: told lines.
        name: of the whole, begins each line; may be empty.
    """

    def __init__(self, say: Callable[[str], None], name: str = "") -> None:
        self._say, self._name = say, f"{name}: " if name else ""
        self._paces: dict[str, Pace] = {}
        self._firsts: dict[str, tuple[float, int]] = {}

    def __call__(self, done: int, total: int, what: str) -> None:
        """Take a count."""
        now = time.monotonic()
        pace = self._paces.setdefault(what, Pace())
        start, first = self._firsts.setdefault(what, (now, done))
        if done < total and pace.due(done / total):
            left = f", about {duration((now - start) / (done - first) * (total - done))} left" if done > first else ""
            self._say(f"{self._name}{done} of {total} {what}{left}")
        if done >= total:
            self._firsts.pop(what)


@contextmanager
def counts_shown(console: Console | None = None) -> Iterator[None]:
    """Show how far whatever is `counted` inside the block is: bars on a terminal, elsewhere a line now and then.

    Args:
        console: where to; None: what is written for people, not for the next program (stderr).
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        with listening(Counts(lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True))):
            yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(done: int, total: int, what: str) -> None:
            task = tasks[what] if what in tasks else tasks.setdefault(what, bar.add_task(what, total=total))
            bar.update(task, completed=done, total=total)
            if done >= total:
                bar.remove_task(tasks.pop(what))

        with listening(show):
            yield


class StepBar:
    """Shows how far a run is, inside its block.

    Args:
        console: where to.
        done: steps done before.
        total: steps of the whole run.
    """

    def __init__(self, console: Console, done: int, total: int) -> None:
        self._console, self._first, self._total = console, done, total
        self._start = self._shown = time.monotonic()
        self._pace = Pace()
        self._bar = Progress(
            TextColumn("{task.fields[kind]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            refresh_per_second=4,
            disable=console.quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=done, kind="steps")

    def __enter__(self) -> StepBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, done: int, figures: Callable[[], Figures]) -> None:
        """Tell that so many steps are done, with figures that are asked for only when they are shown."""
        rate = (done - self._first) / max(time.monotonic() - self._start, 1e-9)
        if self._bar.disable:
            if self._pace.due((done - self._first) / (self._total - self._first)):
                line = told(done, self._total, rate, figures())
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        elif time.monotonic() - self._shown >= _REFRESH or done == self._total:
            self._shown = time.monotonic()
            self._bar.update(self._task, completed=done, description=_listed({**figures(), "steps/s": rate}))

    def over(self, items: Sequence[T], kind: str) -> Iterable[T]:
        """Give the items while a second bar counts them."""
        task = self._bar.add_task("", total=len(items), kind=kind)
        try:
            for number, item in enumerate(items, start=1):
                yield item
                self._bar.update(task, completed=number)
        finally:
            self._bar.remove_task(task)


def told(done: int, total: int, rate: float, figures: Figures) -> str:
    """Say in a line how far a run is.

    Args:
        done: steps done.
        total: steps of the whole run.
        rate: steps per second.
        figures: of the step.
    """
    left = f", about {duration((total - done) / rate)} left" if rate > 0 else ""
    return f"Step {done} of {total} ({done / total:.0%}): {_listed({**figures, 'steps/s': rate})}{left}"


def duration(seconds: float) -> str:
    """A time as people say it: "42 s", "12 min", "3.4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _listed(figures: Figures) -> str:
    """``loss 0.0431, splats 10,234, 4.1 steps/s``: a name that ends in /s is a unit."""
    parts: Iterator[tuple[str, str]] = ((name, _number(value)) for name, value in figures.items())
    return ", ".join(f"{value} {name}" if name.endswith("/s") else f"{name} {value}" for name, value in parts)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
