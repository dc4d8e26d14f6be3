# SPDX-License-Identifier: Apache-2.0
"""``harmonizer ablate SCENE ...``: what each part of the method is worth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from harmonizer_ns.cli.judging import JudgingConfig, check_options, raise_problems, set_up, work
from harmonizer_ns.cli.parsing import read_options
from harmonizer_ns.devices import choose_device
from harmonizer_ns.evaluation import ablation
from harmonizer_ns.files import locked
from harmonizer_ns.report import write_report

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


def main(config: AblateConfig) -> None:
    """Do what is not done yet, then tell all of it; problems are told at the end, with exit status 1."""
    protocol, own = config.read_protocol(), ablation.read_options(config.options)
    output = config.output.resolve()
    with locked(output):
        scenes = set_up(config, protocol, output)
        trials = ablation.plan(protocol, scenes, own, choose_device(config.device))
        jobs = [trial.job for trial in trials]
        check_options(jobs)
        problems = work(config, jobs, output)
        print(write_report(output, ablation.report(protocol, scenes, trials, output, problems)))
    raise_problems(problems)
