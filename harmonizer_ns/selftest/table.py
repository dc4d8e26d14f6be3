# SPDX-License-Identifier: Apache-2.0
"""The whole self-test: every reader, then every writer, one line of a table each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from harmonizer_ns.selftest.fuzz import BAD, GOOD, Report, fuzz, make
from harmonizer_ns.selftest.kills import WRITERS, full_disk, survived
from harmonizer_ns.selftest.readers import READERS

_OUTCOMES = (*GOOD, *BAD)


def check_readers(names: Sequence[str], cases: int, seed: int, kept: Path, say: Callable[[str], None]) -> int:
    """Give readers damaged files, and print what came of them.

    Args:
        names: of `READERS`.
        cases: for each reader.
        seed: of what is drawn.
        kept: where failing inputs are put, by reader.
        say: prints.

    Returns:
        How many cases ended in a way that none may.
    """
    say(f"{'reader':<28}" + "".join(f"{outcome:>11}" for outcome in _OUTCOMES))
    reports, made = [], {}
    with TemporaryDirectory() as root:
        for name in names:
            reader = READERS[name]
            folder = made.setdefault(reader.make, Path(root, str(len(made))))
            if not folder.exists():
                make(reader, folder)
            reports.append(fuzz(name, reader, folder, kept, cases, seed))
            say(_row(reports[-1]))
    whole = Report(f"all, {sum(report.outcomes.total() for report in reports)} cases", kept)
    for report in reports:
        whole.outcomes += report.outcomes
    say(_row(whole))
    if whole.failed:
        say(f"The {whole.failed} failing inputs lie in {kept}, each with what it brought about.")
    return whole.failed


def _row(report: Report) -> str:
    return f"{report.name:<28}" + "".join(f"{report.outcomes[outcome]:>11}" for outcome in _OUTCOMES)


def check_writers(kills: int, seed: int, say: Callable[[str], None]) -> int:
    """Kill every writer so many times, fill the disk once, and print what was lost; gives the number of losses."""
    say(f"\n{'writer':<28}{'kills':>11}{'full disks':>11}{'losses':>11}")
    lost = 0
    with TemporaryDirectory() as root:
        for number, (name, writer) in enumerate(WRITERS.items()):
            places = [Path(root, f"{number}-{what}") for what in ("kills", "full")]
            problems = survived(writer, places[0], kills, seed + number) + full_disk(writer, places[1])
            lost += len(problems)
            say("\n".join([f"{name:<28}{kills:>11}{1:>11}{len(problems):>11}", *(f"  {text}" for text in problems)]))
    return lost
