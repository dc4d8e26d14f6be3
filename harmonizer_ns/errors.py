# SPDX-License-Identifier: Apache-2.0
"""The one exception for what a user can mend, how every command tells it, and checks that raise it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any


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


class MissingExtraError(InputError):
    """What is asked for needs packages that an extra of this one brings."""


@contextmanager
def of_extra(extra: str, purpose: str) -> Iterator[None]:
    """The block imports what comes with an extra of this package.

    Raises:
        MissingExtraError: when it is not installed, naming the purpose, the package, and the line that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise MissingExtraError(f"{purpose} needs {package}: {install_line(extra)}") from error


def install_line(extra: str) -> str:
    """The command that adds an extra of this package to what is installed."""
    return f"pip install 'harmonizer-ns[{extra}]'"


@contextmanager
def damage_of(source: Any) -> Iterator[None]:
    """The block takes over what a file holds; whatever a wrong layout brings it to is told as that file's damage.

    Raises:
        InputError: naming the file.
    """
    try:
        yield
    except InputError as error:
        if str(source) in str(error):
            raise
        raise InputError(f"{source}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's
            raise
        told = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{source} is damaged, or not of this version: {told}") from error


def first_line(error: BaseException) -> str:
    """What an error says, without the lines that follow."""
    return str(error).strip().partition("\n")[0]


def suggestion(name: str, known: Collection[str], what: str) -> str:
    """How a message about an unknown name ends: with the known name that comes near, or with all of them.

    Args:
        name: as it was given.
        known: those that there are.
        what: what these are, in the plural, such as "the commands".
    """
    near = get_close_matches(name, known, n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else f"{what} are {', '.join(known)}"


def check_limits(settings: Any, **limits: tuple[float, float]) -> None:
    """Refuse settings: numbers, and ranges ``(first, last)``, that leave their limits ``(low, high)``; None may stand.

    Args:
        settings: a dataclass.
        limits: of its fields, by name.

    Raises:
        InputError: naming the field, its value and its limits.
    """
    for name, (low, high) in limits.items():
        value = getattr(settings, name)
        if value is None:
            continue
        first, last = value if isinstance(value, tuple) else (value, value)
        if not low <= first <= last <= high:
            within = f"at least {low}" if math.isinf(high) else f"from {low} to {high}"
            kind = "a range " if isinstance(value, tuple) else ""
            raise InputError(f"{name} should be {kind}{within}, got {value}")
