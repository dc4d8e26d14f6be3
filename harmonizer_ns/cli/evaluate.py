# SPDX-License-Identifier: Apache-2.0
"""``harmonizer evaluate RUN|DATA|PAIRS ...``: how near pictures are to the truth, and what an enhancer gains."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harmonizer_ns.cli import loop, stereo
from harmonizer_ns.cli.judged import find_sources, opened
from harmonizer_ns.cli.parsing import dtype_option, read_options
from harmonizer_ns.devices import choose_device
from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation import enhancer as held_out
from harmonizer_ns.evaluation import temporal
from harmonizer_ns.evaluation.settings import EvaluationConfig
from harmonizer_ns.progress import counts_shown

EXAMPLES = """
harmonizer evaluate DATA                                   # the built-in enhancer on photos of your own
harmonizer evaluate outputs/.../config.yml results/fern    # finished runs, on their held-out photos
harmonizer evaluate pairs.json --enhancer my-enhancer      # pictures that exist already
harmonizer evaluate renders photos                         # the same, of two folders
harmonizer evaluate captures/* --output report --weights my-weights
harmonizer evaluate DATA --temporal --views 8 --width 160  # flicker
harmonizer evaluate --loop DATA --output loop              # the training loop by itself; --loop --help says more
harmonizer evaluate --stereo DATA --output depth           # depth and seeds that photos give; --stereo --help
"""


OTHERS = {"--loop": loop, "--stereo": stereo}
"""Flags that make it another command."""


def parse(arguments: Sequence[str]) -> EvaluationConfig | loop.LoopConfig | stereo.StereoConfig:
    """Read the command line; with ``--loop`` or ``--stereo`` it is another command's."""
    for flag, command in OTHERS.items():
        if flag in arguments:
            return command.parse([word for word in arguments if word != flag])
    return read_options(EvaluationConfig, "evaluate", EXAMPLES, arguments)


def main(config: EvaluationConfig | loop.LoopConfig | stereo.StereoConfig) -> None:
    """Find out what is to be judged, then measure scene after scene."""
    if isinstance(config, loop.LoopConfig):
        loop.main(config)
        return
    if isinstance(config, stereo.StereoConfig):
        stereo.main(config)
        return
    torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    if config.enhancer is not None:
        dtype_option(config.enhancer, config.precision)  # an unknown one is told first
    sources = find_sources(config, device)
    networks = config.networks(device)
    scenes = opened(config, sources, device, networks)
    flights = config.temporal and not all(source.is_pairs for source in sources)
    if flights and any(source.is_pairs for source in sources):
        raise InputError("--temporal flies through runs and captures, or takes pairs as a video: give one or the other")
    with counts_shown():
        (temporal if flights else held_out).evaluate(config, scenes, networks)  # type: ignore[arg-type]
