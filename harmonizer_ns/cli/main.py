# SPDX-License-Identifier: Apache-2.0
"""The ``harmonizer COMMAND`` command: each command is one file beside this one, loaded when it is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

from harmonizer_ns import __version__
from harmonizer_ns.errors import InputError, errors_in_one_line, suggestion


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        module: where its ``parse(arguments)`` lives, which only reads the options, and its ``main(options)``.
        description: one line for ``harmonizer --help``.
    """

    module: str
    description: str


COMMANDS: dict[str, Command] = {
    "train": Command("harmonizer_ns.cli.train", "train an enhancer from pairs"),
    "synthesize": Command("harmonizer_ns.cli.synthesize", "make training pairs from a recipe"),
    "scenes": Command("harmonizer_ns.cli.scenes", "render scenes to make pairs of"),
    "enhance": Command("harmonizer_ns.cli.enhance", "repair an image, a folder or a video"),
    "evaluate": Command("harmonizer_ns.cli.evaluate", "measure runs, pictures and enhancers against photos"),
    "ablate": Command("harmonizer_ns.cli.ablate", "measure what each part of the method is worth"),
    "view": Command("harmonizer_ns.cli.view", "look at a reconstruction in the browser, enhanced or not"),
    "convert": Command("harmonizer_ns.cli.convert", "turn a released checkpoint (.pkl) into an enhancer folder"),
    "enhancers": Command("harmonizer_ns.cli.enhancers", "list the enhancers, how to install them, and their licences"),
    "doctor": Command("harmonizer_ns.cli.doctor", "tell what works on this machine, and what to install for the rest"),
    "bench": Command("harmonizer_ns.cli.bench", "measure speed and memory"),
    "selftest": Command("harmonizer_ns.cli.selftest", "try damaged files, killed writers and a full disk"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the command line names; bad input ends with one line on stderr and exit status 1."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    with errors_in_one_line("harmonizer" if name not in COMMANDS else f"harmonizer {name}"), _as_if_by_sigpipe():
        _run(name, rest)


@contextmanager
def _as_if_by_sigpipe() -> Iterator[None]:
    """End the program without a word when nobody reads its output any more, as behind ``| head``."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        sys.exit(128 + 13)


def _run(name: str, arguments: list[str]) -> None:
    if name in ("-h", "--help"):
        print(_help())
    elif name == "--version":
        print(f"harmonizer {__version__}")
    else:
        command = import_module(find(name).module)
        command.main(command.parse(arguments))


def find(name: str) -> Command:
    """Give the command of that name.

    Raises:
        InputError: when there is none; the message says which name comes near.
    """
    if name in COMMANDS:
        return COMMANDS[name]
    raise InputError(f"there is no command {name!r}; {suggestion(name, COMMANDS, 'the commands')}")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.description}" for name, command in COMMANDS.items()]
    usage = "usage: harmonizer COMMAND [options]", "       harmonizer COMMAND --help", "       harmonizer --version"
    return "\n".join([*usage, "", "commands:", *lines])


if __name__ == "__main__":  # torchrun -m harmonizer_ns.cli.main train
    main()
