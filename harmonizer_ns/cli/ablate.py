# SPDX-License-Identifier: Apache-2.0
"""``harmonizer ablate SCENE ...``: what each part of the method is worth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from harmonizer_ns.cli.judging import JudgingConfig, judge
from harmonizer_ns.cli.parsing import read_options
from harmonizer_ns.evaluation import ablation

EXAMPLES = """
harmonizer ablate captures/* --output ablation --workers 2
harmonizer ablate DATA --output mine --steps 1000 --seeds 0 1 --options mine.json
harmonizer ablate --protocol nerfbusters --data NERFBUSTERS --output ablation   # the protocol names the scenes
"""


@dataclass(frozen=True, kw_only=True)
class AblateConfig(JudgingConfig):
    """Try the method with its parts on and off.

    Every scene is trained plain, from dense seed points, with a single round of repairs, progressively, and with each
    part of the method off, all with the same steps and seeds; what is rendered is also judged after enhancement.
    OUTPUT/report.html tells the means, their spread over seeds, and in how many seeds each is better than plain.
    Trainings that are finished stay: run the same command again to go on.
    """


parse = partial(read_options, AblateConfig, "ablate", EXAMPLES)
main = partial(judge, plan=ablation.plan, report=ablation.report)
