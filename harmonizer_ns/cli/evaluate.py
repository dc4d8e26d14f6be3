# SPDX-License-Identifier: Apache-2.0
"""``harmonizer evaluate DATA ...``: what an enhancer gains on photos of your own captures."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harmonizer_ns.cli import loop
from harmonizer_ns.cli.parsing import dtype_option, read_options
from harmonizer_ns.devices import choose_device
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.evaluation import enhancer as held_out
from harmonizer_ns.evaluation import temporal
from harmonizer_ns.evaluation.protocol import EvaluationConfig

EXAMPLES = """
harmonizer evaluate DATA                                   # the built-in enhancer
harmonizer evaluate captures/* --enhancer my-enhancer --output report
harmonizer evaluate DATA --temporal --views 8 --width 160  # flicker
harmonizer evaluate --loop DATA --output loop              # the training loop by itself; --loop --help says more
"""


def parse(arguments: Sequence[str]) -> EvaluationConfig | loop.LoopConfig:
    """Read the command line; with ``--loop`` it is another command's."""
    if "--loop" in arguments:
        return loop.parse([word for word in arguments if word != "--loop"])
    return read_options(EvaluationConfig, "evaluate", EXAMPLES, arguments)


def main(config: EvaluationConfig | loop.LoopConfig) -> None:
    """Load the enhancer, then measure scene after scene."""
    if isinstance(config, loop.LoopConfig):
        loop.main(config)
        return
    torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    enhancer = load_enhancer(config.enhancer, device, **dtype_option(config.enhancer, config.precision))
    (temporal if config.temporal else held_out).evaluate(config, enhancer, device)
