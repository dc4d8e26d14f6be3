# SPDX-License-Identifier: Apache-2.0
"""``harmonizer scenes procedural|demo``: render captures, whose every photo and camera is known exactly."""

from __future__ import annotations

from collections.abc import Sequence

import tyro

from harmonizer_ns.cli.parsing import with_examples
from harmonizer_ns.progress import counts_shown
from harmonizer_ns.synthesis.scenes.demo import DemoConfig, make_demo
from harmonizer_ns.synthesis.scenes.procedural import ProceduralConfig, make_scenes

EXAMPLES = """
harmonizer scenes procedural --output scenes --count 23 --width 240 --height 135 --spp 16
harmonizer scenes demo --output assets/demo
"""


def parse(arguments: Sequence[str]) -> ProceduralConfig | DemoConfig:
    """Read the command line."""
    return tyro.extras.subcommand_cli_from_dict(
        {"procedural": ProceduralConfig, "demo": DemoConfig},
        args=arguments,
        prog="harmonizer scenes",
        description=with_examples("Render captures with Mitsuba, to make training pairs of.", EXAMPLES),
    )


def main(config: ProceduralConfig | DemoConfig) -> None:
    """Render what the command line names."""
    with counts_shown():
        make_demo(config) if isinstance(config, DemoConfig) else make_scenes(config)
