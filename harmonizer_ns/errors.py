# SPDX-License-Identifier: Apache-2.0
"""The one exception for what a user can mend, and how every command tells it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave is wrong. The message names it and says what to do; commands print it alone."""


@contextmanager
def errors_in_one_line(program: str) -> Iterator[None]:
    """What the user can mend ends ``program`` with one line on stderr and exit status 1; defects keep their traceback.

    Besides `InputError`, these are packages that are not installed and files, disks or ports that refuse.
    """
    try:
        yield
    except (InputError, ImportError, OSError) as error:
        raise SystemExit(f"{program}: {error}") from error
