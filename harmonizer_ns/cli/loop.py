# SPDX-License-Identifier: Apache-2.0
"""``harmonizer evaluate --loop SCENE ...``: what the training loop makes of repairs of a stated quality."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from harmonizer_ns.cli.judging import JudgingConfig, judge
from harmonizer_ns.cli.parsing import read_options
from harmonizer_ns.evaluation.loop import plan_loop, report_loop

EXAMPLES = """
harmonizer evaluate --loop DATA --output loop --steps 1000 --seeds 0
harmonizer evaluate --loop DATA --output loop --steps 1000 --seeds 0 --options mine.json
"""


@dataclass(frozen=True, kw_only=True)
class LoopConfig(JudgingConfig):
    """Test the training loop by itself.

    Enhancers that know the truth stand in for repairs of a stated quality: perfect ones, misaligned by 0.8 and 1.6
    pixels, soft, with a tenth of each picture invented, and tinted. The table says what the loop makes of each, and
    which share that is of what training on the judged photos themselves gains. Trainings that are finished stay: run
    the same command again to go on.
    """


parse = partial(read_options, LoopConfig, "evaluate --loop", EXAMPLES)
main = partial(judge, plan=plan_loop, report=report_loop)
