# SPDX-License-Identifier: Apache-2.0
"""What commands share: how they read their line, with examples at the end of the help, and what options mean."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import cleandoc
from textwrap import indent
from typing import Any, TypeVar

import tyro

from harmonizer_ns.devices import DTYPES, Precision
from harmonizer_ns.enhancers.specs import options_of

Options = TypeVar("Options")


def read_options(options: type[Options], command: str, examples: str, arguments: Sequence[str]) -> Options:
    """Fill a dataclass of options from what follows ``harmonizer COMMAND``; ``--help`` and misuse end the program.

    Args:
        options: dataclass; its docstring opens the help.
        command: its name.
        examples: whole command lines, one a line; ``#`` begins a comment.
        arguments: the words.
    """
    description = with_examples(options.__doc__ or "", examples)
    return tyro.cli(options, args=arguments, prog=f"harmonizer {command}", description=description)


def with_examples(description: str, examples: str) -> str:
    """Join a command's description, then its examples."""
    return f"{cleandoc(description)}\n\nexamples:\n{indent(examples.strip(), '  ')}"


def dtype_option(enhancer: str, precision: Precision) -> dict[str, Any]:
    """What ``--precision`` means to `load_enhancer`: nothing for auto, and for enhancers that know one number type.

    Raises:
        InputError: when there is no such enhancer.
    """
    has_dtypes = "dtype" in options_of(enhancer)
    return {"dtype": DTYPES[precision]} if has_dtypes and precision != "auto" else {}
