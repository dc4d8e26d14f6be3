# SPDX-License-Identifier: Apache-2.0
"""The ``harmonizer COMMAND`` command: each command is one file beside this one, loaded when it is asked for."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module

from harmonizer_ns.errors import InputError


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        module: where its ``main(arguments: list[str]) -> None`` lives.
        description: one line for ``harmonizer --help``.
    """

    module: str
    description: str


COMMANDS: dict[str, Command] = {
    "bench": Command("harmonizer_ns.cli.bench", "measure speed and memory"),
    "convert": Command("harmonizer_ns.cli.convert", "turn a released checkpoint (.pkl) into an enhancer folder"),
    "enhance": Command("harmonizer_ns.cli.enhance", "repair an image, a folder or a video"),
    "enhancers": Command("harmonizer_ns.cli.enhancers", "list the enhancers, how to install them, and their licences"),
    "synthesize": Command("harmonizer_ns.cli.synthesize", "make training pairs from a recipe"),
    "train": Command("harmonizer_ns.cli.train", "train an enhancer from a pairs file"),
    "view": Command("harmonizer_ns.cli.view", "look at a reconstruction in the browser, enhanced or not"),
}


def main() -> None:
    """Run the command that the command line names; bad input ends with one line on stderr and exit status 1."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return
    if name not in COMMANDS:
        sys.exit(f"harmonizer: unknown command {name!r}; known commands are {', '.join(COMMANDS)}")
    try:
        import_module(COMMANDS[name].module).main(arguments)
    except (InputError, ImportError) as error:
        sys.exit(f"harmonizer {name}: {error}")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.description}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: harmonizer COMMAND [options]; harmonizer COMMAND --help lists them", "", *lines])


if __name__ == "__main__":
    main()
