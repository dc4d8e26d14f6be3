# SPDX-License-Identifier: Apache-2.0
"""``harmonizer train PRESET --pairs FILE ... --output DIR``: train an enhancer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import tyro

from harmonizer_ns.cli.parsing import with_examples
from harmonizer_ns.training.config import TrainingConfig
from harmonizer_ns.training.presets import PRESETS

EXAMPLES = """
harmonizer train builtin --pairs pairs/pairs.json --output runs/builtin
harmonizer train difix --pairs pairs.json --output runs/difix --model sd-turbo/
harmonizer train harmonizer --pairs clips.json --output runs/harmonizer --model my-fixer/ --resume
torchrun --nproc-per-node 8 -m harmonizer_ns.cli.main train difix --pairs pairs.json --output runs/difix
"""


def parse(arguments: Sequence[str]) -> TrainingConfig:
    """Read the command line: a preset, and what differs from it."""
    named = arguments[0] if arguments else ""  # its own help tells more than the list of presets
    presets = {
        name: (f"{preset.description}\n\n{preset.details}" if name == named else preset.description, preset.config)
        for name, preset in PRESETS.items()
    }
    description = with_examples("Train an enhancer from pairs of damaged and clean images.", EXAMPLES)
    return tyro.extras.overridable_config_cli(presets, args=arguments, prog="harmonizer train", description=description)


def main(config: TrainingConfig) -> None:
    """Train the preset that the command line names; an interrupted run ends with exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from harmonizer_ns.training.setup import train

    outcome = train(config)
    if not outcome.finished:
        sys.exit(f"interrupted after step {outcome.step}; continue with --resume")
