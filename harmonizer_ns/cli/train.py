# SPDX-License-Identifier: Apache-2.0
"""Train an enhancer: ``harmonizer train PRESET --pairs FILE ... --output DIR``.

For several GPUs: ``torchrun --nproc-per-node N -m harmonizer_ns.cli.main train PRESET ...``, or ``accelerate launch``
in place of ``torchrun``.
"""

from __future__ import annotations

import logging
import sys

import tyro

from harmonizer_ns.training.presets import PRESETS


def main(arguments: list[str] | None = None) -> None:
    """Train the preset that the command line names; an interrupted run ends with exit status 1."""
    presets = {name: (preset.description, preset.config) for name, preset in PRESETS.items()}
    config = tyro.extras.overridable_config_cli(
        presets, prog="harmonizer train", description=__doc__, args=sys.argv[1:] if arguments is None else arguments
    )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from harmonizer_ns.training.setup import train

    outcome = train(config)
    if not outcome.finished:
        sys.exit(f"interrupted after step {outcome.step}; continue with --resume")


if __name__ == "__main__":
    main()
