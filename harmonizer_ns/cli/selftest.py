# SPDX-License-Identifier: Apache-2.0
"""``harmonizer selftest``: damaged files, killed writers and a full disk, on this machine and installation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harmonizer_ns.cli.parsing import read_options
from harmonizer_ns.errors import InputError, of_extra, suggestion

EXAMPLES = """
harmonizer selftest                                    # a minute or two
harmonizer selftest --long                             # thousands of damaged files, 25 kills of each writer
harmonizer selftest --readers transforms.json --cases 1000 --seed 7
"""
_CASES = {False: 8, True: 100}
_KILLS = {False: 2, True: 25}


@dataclass(frozen=True)
class SelfTestConfig:
    """Give every reader damaged files, kill every writer, fill the disk, and print what came of it.

    No file is executed, no reader hangs, ends in a traceback or passes nonsense on, and nothing that was written is
    lost; otherwise the exit status is 1. Needs Linux.
    """

    long: bool = False
    """Try 100 files for each reader and 25 kills of each writer, not 8 and 2."""
    seed: int = 0
    """Of everything that is random."""
    cases: int | None = None
    """Damaged files for each reader."""
    readers: tuple[str, ...] = ()
    """Only these readers, as the table names them, and no writers."""
    kept: Path = Path("selftest-failures")
    """Where inputs are kept that bring about what must not be."""


parse = partial(read_options, SelfTestConfig, "selftest", EXAMPLES)


def main(config: SelfTestConfig) -> None:
    """Test readers, then writers."""
    if not Path("/proc/self/statm").is_file():
        raise InputError("the self-test needs Linux: it forks, and limits memory")
    with of_extra("selftest", "the self-test"):
        import hypothesis  # noqa: F401 - the self-test draws with it

        import harmonizer_ns.plugin.configs  # noqa: F401 - nerfstudio's files are among those that it damages
    import torch

    warnings.simplefilter("ignore", FutureWarning)  # nerfstudio's calls of torch would stand between the table's rows
    from harmonizer_ns.selftest.fuzz import check_readers
    from harmonizer_ns.selftest.kills import check_writers
    from harmonizer_ns.selftest.readers import READERS

    for name in config.readers:
        if name not in READERS:
            raise InputError(f"there is no reader {name!r}; {suggestion(name, READERS, 'the readers')}")
    torch.set_num_threads(1)  # children that are forked have no threads but their first
    say = partial(print, flush=True)
    cases = _CASES[config.long] if config.cases is None else config.cases
    failed = check_readers(config.readers or tuple(READERS), cases, config.seed, config.kept, say)
    if not config.readers:
        failed += check_writers(_KILLS[config.long], config.seed, say)
    if failed:
        raise SystemExit(1)
