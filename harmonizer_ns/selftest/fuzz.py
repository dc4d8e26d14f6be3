# SPDX-License-Identifier: Apache-2.0
"""Damaged files are read in a process of their own, which is ended when it takes too long; outcomes are counted."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, reject, seed, settings
from hypothesis.strategies import SearchStrategy

from harmonizer_ns.errors import errors_in_one_line
from harmonizer_ns.selftest.damage import attacks, damaged
from harmonizer_ns.selftest.readers import Reader

Outcome = Literal["read", "refused", "traceback", "hang", "executed", "nonsense"]
GOOD: tuple[Outcome, ...] = ("read", "refused")
BAD: tuple[Outcome, ...] = ("traceback", "hang", "executed", "nonsense")
SECONDS = 60.0
"""Reading a small file does not take so long."""
MEMORY = 4 << 30
"""A reader of small files gets so many bytes more than it began with."""


@dataclass
class Report:
    """What came of the cases of one reader.

    Args:
        name: of the reader.
        kept: where failing inputs are put.
    """

    name: str
    kept: Path
    outcomes: Counter[Outcome] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """How many cases ended in a way that none may."""
        return sum(self.outcomes[outcome] for outcome in BAD)


def make(reader: Reader, folder: Path) -> None:
    """Fill a folder with a reader's good input."""

    def fill(pipe: Connection) -> None:
        torch.manual_seed(0)
        try:
            reader.make(folder)
            pipe.send("")
        except BaseException:
            pipe.send(traceback.format_exc())

    for module in reader.modules:
        import_module(module)
    folder.mkdir(parents=True)
    pid, pipe = in_child(fill)
    problem = pipe.recv()
    os.waitpid(pid, 0)
    if problem:
        raise AssertionError(problem)


def fuzz(name: str, reader: Reader, folder: Path, kept: Path, cases: int, first_seed: int) -> Report:
    """Damage a reader's file so many times.

    Args:
        name: of the reader.
        reader: what reads.
        folder: of a good input, which `Reader.make` has filled.
        kept: where failing inputs are put.
        cases: a quarter of them, at most all there are, are attacks.
        first_seed: of what is drawn.
    """
    report, file, canary = Report(name, kept / name.replace(" ", "_")), folder / reader.file, folder / "executed"
    hostile = list(attacks(canary).values())
    strategies = [(form, damaged(form.load(file))) for form in reader.forms]
    with _restored(folder) as good, _Worker(reader, folder, good) as worker:

        def check(write: Callable[[], Any]) -> None:
            """Write a case, have it read, count what comes of it."""
            write()
            reader.seal(folder)
            outcome, detail = worker.read()
            if canary.exists():
                canary.unlink()
                outcome, detail = "executed", "a command in the file was run"
            report.outcomes[outcome] += 1
            if outcome in BAD:
                _keep(file, report.kept / f"{outcome}-{report.failed}", detail)

        for i in range(min(len(hostile), max(1, cases // 4))):
            check(lambda i=i: file.write_bytes(hostile[(i + first_seed) % len(hostile)]))
        left = cases - report.outcomes.total()
        for number, (form, strategy) in enumerate(strategies):
            count = (left + number) // len(strategies)
            if count:
                _draw(strategy, lambda case, dump=form.dump: dump(case, file), count, first_seed + number, check)
    return report


def _draw(
    strategy: SearchStrategy[Any], dump: Callable[[Any], Any], cases: int, first_seed: int, check: Callable[..., None]
) -> None:
    """Draw cases and check each; what cannot be dumped is drawn again."""

    @seed(first_seed)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),  # type: ignore[arg-type] - an enum all the same
        verbosity=Verbosity.quiet,
    )
    @given(case=strategy)
    def run(case: Any) -> None:
        def write() -> None:
            try:
                dump(case)
            except Exception:  # any format says in its own way that it cannot hold a value
                reject()

        check(write)

    run()


@contextmanager
def _restored(folder: Path) -> Iterator[Path]:
    """Give a copy of the folder, which takes its place when the block ends."""
    copy = folder.with_name(f"{folder.name}.good")
    shutil.copytree(folder, copy)
    try:
        yield copy
    finally:
        shutil.rmtree(folder)
        copy.rename(folder)


def _keep(file: Path, folder: Path, detail: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, folder)
    (folder / "what.txt").write_text(detail, encoding="utf-8", errors="replace")


def in_child(run: Callable[[Connection], Any]) -> tuple[int, Connection]:
    """Fork a process that does something and ends; gives its number and the other end of its pipe.

    What it prints goes nowhere. Threads of number libraries do not survive a fork, so the first process computes
    nothing with them: whatever does runs in children.
    """
    ours, theirs = Pipe()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    try:
        ours.close()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        torch.set_num_threads(1)
        run(theirs)
    finally:
        os._exit(0)


class _Worker:
    """Reads the damaged file in another process whenever it is asked to; one that hangs or dies is replaced.

    Args:
        reader: reads.
        folder: holds the damaged file.
        good: holds the good one, which the process reads first of all.
    """

    def __init__(self, reader: Reader, folder: Path, good: Path) -> None:
        self._serve = partial(_serve, reader, folder, good)
        self._pid, self._pipe = 0, None

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def read(self) -> tuple[Outcome, str]:
        """Read the file."""
        pipe = self._pipe or self._start()
        pipe.send(None)
        if not pipe.poll(SECONDS):
            self._end()
            return "hang", f"not read within {SECONDS:g} seconds"
        try:
            return pipe.recv()
        except EOFError:
            return "traceback", f"the process ended: {self._end()}"

    def _start(self) -> Connection:
        self._pid, self._pipe = in_child(self._serve)
        first = self._pipe.recv()
        if first != ("read", ""):
            raise AssertionError(f"the undamaged file is not read: {first}")
        return self._pipe

    def _end(self) -> str:
        """End the process; says how it ended."""
        if self._pipe is None:
            return ""
        self._pipe.close()
        self._pipe = None
        os.kill(self._pid, signal.SIGKILL)
        return str(os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1]))


def _serve(reader: Reader, folder: Path, good: Path, pipe: Connection) -> None:
    """Answer until the other end is closed, with limited memory."""
    pipe.send(_outcome(reader, good))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send(_outcome(reader, folder))


def _outcome(reader: Reader, folder: Path) -> tuple[Outcome, str]:
    try:
        with errors_in_one_line("selftest"):
            problems = list(reader.nonsense(reader.read(folder)))
    except SystemExit as error:
        named = str(folder) in str(error) or Path(reader.file).name in str(error)
        return ("refused", "") if named else ("nonsense", f"the message names no file: {error}")
    except BaseException:
        return "traceback", traceback.format_exc()
    return ("nonsense", "\n".join(problems)) if problems else ("read", "")
