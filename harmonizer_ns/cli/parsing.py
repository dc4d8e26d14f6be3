# SPDX-License-Identifier: Apache-2.0
"""How commands read their line: the command's own name in the usage, and examples at the end of its help."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import cleandoc
from textwrap import indent
from typing import TypeVar

import tyro

Options = TypeVar("Options")


def parse(options: type[Options], command: str, arguments: Sequence[str], examples: str) -> Options:
    """Fill a dataclass of options from what follows ``harmonizer COMMAND``; ``--help`` and misuse end the program.

    Args:
        options: dataclass; its docstring opens the help.
        command: its name.
        arguments: the words.
        examples: whole command lines, one a line; ``#`` begins a comment.
    """
    description = with_examples(options.__doc__ or "", examples)
    return tyro.cli(options, args=arguments, prog=f"harmonizer {command}", description=description)


def with_examples(description: str, examples: str) -> str:
    """A command's description, then its examples."""
    return f"{cleandoc(description)}\n\nexamples:\n{indent(examples.strip(), '  ')}"
