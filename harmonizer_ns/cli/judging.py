# SPDX-License-Identifier: Apache-2.0
"""What the commands share that train scenes by a protocol and judge the outcome: options, set-up, and the trainings."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from gsplat_trainer.__main__ import parse as read_flags
from gsplat_trainer.config import check, scaled
from gsplat_trainer.scene import prepare as read_scene
from gsplat_trainer.trainer import Trainer
from harmonizer_ns.devices import Device, choose_device
from harmonizer_ns.distill.held_out import held_out_view
from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.enhancers.gpu_sharing import ParkedEnhancer
from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation.ablation import read_options
from harmonizer_ns.evaluation.comparison import Trial
from harmonizer_ns.evaluation.jobs import Job, arguments_of, run_jobs
from harmonizer_ns.evaluation.networks import Networks
from harmonizer_ns.evaluation.prepared import PreparedScene, prepare
from harmonizer_ns.evaluation.protocols import EnhancerVersion, Protocol, claim, read_protocol
from harmonizer_ns.files import locked, remove_leftovers
from harmonizer_ns.report import Report, write_report
from harmonizer_ns.views import JudgedView


@dataclass(frozen=True, kw_only=True)
class JudgingConfig:
    """Holds what `harmonizer ablate` and `harmonizer evaluate --loop` share."""

    scenes: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[SCENE ...]")] = ()
    """Folders of captures; none: those that the protocol names."""
    protocol: str = "sparse"
    """A JSON file, or a shipped protocol: sparse, few, far, nerfbusters, dl3dv, mipnerf360-sparse."""
    data: Path = Path()
    """Where scenes are looked for."""
    output: Path
    """Folder that receives everything. The same command again goes on where an earlier one ended."""
    steps: tuple[int, ...] = ()
    """Only these of the protocol's lengths of training; all without."""
    seeds: tuple[int, ...] = ()
    """These seeds instead of the protocol's."""
    enhancer: str | None = None
    """This enhancer instead of the protocol's: a name, or the folder of a checkpoint."""
    options: Path | None = None
    """JSON file of more to try: {"name": ["--flag", "value", ...], ...} with flags of gsplat_trainer."""
    workers: int = 1
    """Trainings at a time, each in a process of its own with one thread."""
    ray: bool = False
    """Give them to a Ray cluster (or start Ray here) instead; all machines see the same folder."""
    weights: tuple[Path, ...] = ()
    """Folders with weights of networks that judge, such as LPIPS; what is not found is not measured."""
    device: Device = "auto"
    """Where to train; auto takes a GPU when there is one."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"--workers should be at least 1, got {self.workers}")

    def read_protocol(self) -> Protocol:
        """Read the protocol, changed as the command line says."""
        protocol = read_protocol(self.protocol)
        runs = tuple(run for run in protocol.runs if not self.steps or run.steps in self.steps)
        if unknown := sorted(set(self.steps) - {run.steps for run in runs}):
            known = ", ".join(str(run.steps) for run in protocol.runs)
            raise InputError(f"the protocol {protocol.name} has no run of {unknown[0]} steps; it has {known}")
        if self.seeds:
            runs = tuple(replace(run, seeds=self.seeds) for run in runs)
        names = tuple(map(str, self.scenes)) or protocol.scenes
        if not names:
            raise InputError(f"name scenes to try; the protocol {protocol.name} names none")
        enhancer = protocol.enhancer if self.enhancer is None else EnhancerVersion(self.enhancer)
        return replace(protocol, runs=runs, scenes=names, enhancer=enhancer).complete()


def judge(
    config: JudgingConfig,
    plan: Callable[[Protocol, Sequence[PreparedScene], Mapping[str, Sequence[str]], str], list[Trial]],
    report: Callable[[Protocol, Sequence[PreparedScene], Sequence[Trial], Path, Sequence[str]], Report],
) -> None:
    """Do what is not done yet, then tell all of it; problems are told at the end, with exit status 1."""
    protocol, own = config.read_protocol(), read_options(config.options)
    output, problems = config.output.resolve(), []
    with locked(output):
        remove_leftovers(output, *filter(Path.is_dir, output.iterdir()))
        claim(output, protocol)
        scenes = prepare(protocol, [config.data / name for name in protocol.scenes], output, problems)
        print(*scenes, *(f"left out: {problem}" for problem in problems), sep="\n")
        trials = plan(protocol, scenes, own, choose_device(config.device))
        jobs = [trial.job for trial in trials]
        check_options(jobs)
        problems += work(config, jobs, output)
        print(write_report(output, report(protocol, scenes, trials, output, problems)))
    if problems:
        raise InputError("\n  ".join(["not done, everything else is:", *problems]))


def work(config: JudgingConfig, jobs: Sequence[Job], output: Path) -> list[str]:
    """Do the jobs; returns what went wrong."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come
    networks = Networks(config.weights)
    try:
        outcomes = list(run_jobs(jobs, output, train, networks, config.workers, config.ray))
    except KeyboardInterrupt:
        sys.exit("interrupted; what is finished stays: run the same command again to go on")
    return [f"{outcome.key}: {outcome.problem}" for outcome in outcomes if outcome.problem]


def check_options(jobs: Sequence[Job]) -> None:
    """Refuse flags that gsplat_trainer does not know, before anything is trained.

    Raises:
        InputError: naming the flags.
    """
    for options in dict.fromkeys(job.options for job in jobs):
        job = next(job for job in jobs if job.options == options)
        said = io.StringIO()
        try:
            with redirect_stderr(said):
                read_flags(arguments_of(job, Path()))
        except SystemExit as error:
            words = " ".join(said.getvalue().replace("│", " ").split())
            raise InputError(f"gsplat_trainer does not take {' '.join(options)}: {words}") from error


class _JudgedTrainer(Trainer):
    """Leaves the judging to its caller, and writes no pictures of its rounds, which cost as much as the repairs."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.outputs.enabled = False

    def evaluate(self, step: int, stage: str = "val") -> None:
        """Measure nothing."""


def train(arguments: Sequence[str], enhancer: Enhancer | None, on_judged: bool) -> Iterator[JudgedView]:
    """Run gsplat_trainer, and show its held-out views; `evaluation.jobs.Train`.

    Args:
        arguments: its command line.
        enhancer: takes the place of the one that they name.
        on_judged: whether the judged photos train as well.

    Raises:
        InputError: on a run that was interrupted.
    """
    config = scaled(read_flags(arguments))
    check(config)
    config, scene, splats = read_scene(config)
    scene = replace(scene, train=tuple(sorted((*scene.train, *scene.test)))) if on_judged else scene
    trainer = _JudgedTrainer(config, scene, torch.device(config.device), splats=splats)
    if enhancer is not None:
        trainer.repairs.enhancer = ParkedEnhancer(enhancer)
    trainer.train()
    if not trainer.is_finished:
        raise InputError("interrupted")
    for index in scene.test:
        with torch.no_grad():
            frames = trainer.render(scene.cameras[index])
        yield held_out_view(scene, index, frames, trainer.repairs)
