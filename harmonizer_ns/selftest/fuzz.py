# SPDX-License-Identifier: Apache-2.0
"""Damaged files are read in a process of their own, which is ended when it takes too long; outcomes are counted."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, reject, seed, settings

from harmonizer_ns.errors import errors_in_one_line
from harmonizer_ns.selftest.damage import Form, attacks, damaged
from harmonizer_ns.selftest.nonsense import nonsense
from harmonizer_ns.selftest.readers import READERS, Reader

FORK = get_context("fork")
"""Threads of number libraries do not survive a fork, so the first process has none; what computes runs in children."""
Outcome = Literal["read", "refused", "traceback", "hang", "executed", "nonsense"]
OUTCOMES: tuple[Outcome, ...] = ("read", "refused", "traceback", "hang", "executed", "nonsense")
BAD = OUTCOMES[2:]
SECONDS = 60.0
"""Reading a small file does not take so long."""
MEMORY = 4 << 30
"""A reader of small files gets so many bytes more than it began with."""


def check_readers(names: Sequence[str], cases: int, first_seed: int, kept: Path, say: Callable[[str], None]) -> int:
    """Give readers damaged files, and print what came of them.

    Args:
        names: of `READERS`.
        cases: for each reader.
        first_seed: of what is drawn.
        kept: where failing inputs are put, by reader.
        say: prints.

    Returns:
        How many cases ended in a way that none may.
    """

    def row(name: str, found: Counter[Outcome]) -> str:
        return f"{name:<28}" + "".join(f"{found[outcome]:>11}" for outcome in OUTCOMES)

    say(f"{'reader':<28}" + "".join(f"{outcome:>11}" for outcome in OUTCOMES))
    whole: Counter[Outcome] = Counter()
    with TemporaryDirectory() as root:
        for name in names:
            folder = Path(root, READERS[name].make.__name__)
            if not folder.exists():
                make(READERS[name], folder)
            whole += (found := fuzz(name, READERS[name], folder, kept, cases, first_seed))
            say(row(name, found))
    failed = sum(whole[outcome] for outcome in BAD)
    say(row(f"all, {whole.total()} cases", whole))
    if failed:
        say(f"The {failed} failing inputs lie in {kept}, each with what it brought about.")
    return failed


def make(reader: Reader, folder: Path) -> None:
    """Fill a new folder with a reader's good input."""

    def fill() -> None:
        torch.manual_seed(0)
        reader.make(folder)

    folder.mkdir(parents=True)
    child = FORK.Process(target=fill)
    child.start()
    child.join()
    if child.exitcode:
        raise AssertionError(f"{reader.make.__name__} failed")


def fuzz(name: str, reader: Reader, good: Path, kept: Path, cases: int, first_seed: int) -> Counter[Outcome]:
    """Damage a reader's file so many times.

    Args:
        name: of the reader.
        reader: what reads.
        good: folder of its good input, see `make`.
        kept: where failing inputs are put.
        cases: a quarter of them, at most all there are, are attacks.
        first_seed: of what is drawn.
    """
    outcomes: Counter[Outcome] = Counter()
    with TemporaryDirectory() as root, _Worker(reader, good) as worker:
        folder = shutil.copytree(good, Path(root, "damaged"))
        file, canary = folder / reader.file, folder / "executed"

        def check() -> None:
            """Have the damaged file read, and count what comes of it."""
            reader.seal(folder)
            outcome, detail = worker.read(folder)
            if canary.exists():
                canary.unlink()
                outcome, detail = "executed", "a command in the file was run"
            outcomes[outcome] += 1
            if outcome in BAD:
                place = Path(kept, name.replace(" ", "_"), f"{outcome}-{outcomes[outcome]}")
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, place)
                (place / "what.txt").write_text(detail, encoding="utf-8", errors="replace")

        hostile = list(attacks(canary).values())
        for i in range(min(len(hostile), max(1, cases // 4))):
            file.write_bytes(hostile[(i + first_seed) % len(hostile)])
            check()
        left = cases - outcomes.total()
        for number, form in enumerate(reader.forms):
            if count := (left + number) // len(reader.forms):
                _draw(form, good / reader.file, file, count, first_seed, check)
    return outcomes


def _draw(form: Form, good: Path, file: Path, count: int, first_seed: int, check: Callable[[], None]) -> None:
    """Write so many damaged files and check each; what the form cannot hold is drawn again."""

    @seed(first_seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),  # type: ignore[arg-type] - an enum all the same
        verbosity=Verbosity.quiet,
    )
    @given(case=damaged(form, good))
    def run(case: Any) -> None:
        try:
            form.dump(case, file)
        except Exception:  # any format says in its own way that it cannot hold a value
            reject()
        check()

    run()


class _Worker:
    """Reads damaged files in another process, which is replaced when one brings it to hang or die.

    Args:
        reader: reads.
        good: holds the good file, which the process reads first of all.
    """

    def __init__(self, reader: Reader, good: Path) -> None:
        self._reader, self._good = reader, good

    def __enter__(self) -> _Worker:
        self._pool = ProcessPoolExecutor(1, FORK, _prepare, (self._reader,))
        first = self._pool.submit(_outcome, self._good, 0.0).result()
        if first != ("read", ""):
            raise AssertionError(f"the undamaged file is not read: {first}")
        self._pool.submit(_limit_memory).result()
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()

    def read(self, folder: Path) -> tuple[Outcome, str]:
        began = time.monotonic()
        try:
            return self._pool.submit(_outcome, folder, SECONDS).result()
        except BrokenProcessPool:
            took = time.monotonic() - began
            self._pool.shutdown()
            self.__enter__()
            return "hang" if took >= SECONDS else "traceback", f"the process ended after {took:.0f} seconds"


_here: list[Reader] = []
"""The reader of a worker's process."""


def _prepare(reader: Reader) -> None:
    _here.append(reader)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def _outcome(folder: Path, seconds: float) -> tuple[Outcome, str]:
    reader = _here[-1]
    signal.setitimer(signal.ITIMER_REAL, seconds)  # ends the process, even in the midst of a library's code
    try:
        with errors_in_one_line("selftest"):
            problems = list(nonsense(reader.read(folder)))
    except SystemExit as error:
        named = str(folder) in str(error) or Path(reader.file).name in str(error)
        return ("refused", "") if named else ("nonsense", f"the message names no file: {error}")
    except BaseException:
        return "traceback", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ("nonsense", "\n".join(problems)) if problems else ("read", "")
