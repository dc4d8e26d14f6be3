# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's trainer writes checkpoints that survive a full disk here, resumes exactly, and reports at the end."""

from __future__ import annotations

import dataclasses
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE

from harmonizer_ns.captures.frame import write_origin
from harmonizer_ns.errors import InputError, damage_of, errors_in_one_line
from harmonizer_ns.files import read_torch, written_whole
from harmonizer_ns.plugin.dataparser import PlyNerfstudio
from harmonizer_ns.plugin.pipeline import HarmonizePipeline, HarmonizePipelineConfig
from harmonizer_ns.plugin.report import print_report
from harmonizer_ns.random_state import seed_all


@dataclass
class HarmonizeTrainerConfig(TrainerConfig):
    """nerfstudio's trainer settings, and what the final report holds."""

    _target: type = field(default_factory=lambda: HarmonizeTrainer)
    pipeline: HarmonizePipelineConfig = field(default_factory=HarmonizePipelineConfig)
    """Data, model, and how views are repaired."""
    final_report: bool = True
    """Measure rgb and rgb_enhanced on all held-out photos when training ends, print and save the table."""
    compare_to_baseline: bool = False
    """Also train the plain method (same seed, same steps, no pseudo-views) and put it into the final report."""

    def save_config(self) -> None:
        """Write config.yml into the run's folder.

        Raises:
            SystemExit: when the folder cannot be written; the message names it.
        """
        try:
            super().save_config()
        except OSError as error:
            raise SystemExit(f"harmonize: cannot write to the output folder {self.get_base_dir()}: {error}") from error


class HarmonizeTrainer(Trainer):
    """Trains a `HarmonizePipeline`."""

    config: HarmonizeTrainerConfig
    pipeline: HarmonizePipeline  # pyright: ignore[reportIncompatibleVariableOverride]

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build data, model and optimizers, and load the checkpoint if there is one.

        Raises:
            SystemExit: with one message, when something that the user gave is wrong, or a package is missing.
        """
        with errors_in_one_line("harmonize"):
            super().setup(test_mode)
            parser = getattr(self.pipeline.datamanager, "dataparser", None)
            if isinstance(parser, PlyNerfstudio):
                write_origin(self.base_dir, parser.origin)

    def train(self) -> None:
        """Train up to ``max_num_iterations``, counted from the first step of the whole run.

        A resumed run ends where the uninterrupted one would have ended; upstream would train that many more steps.

        Raises:
            SystemExit: with one message, when what was trained cannot be written.
        """
        total = self.config.max_num_iterations
        self.step = self._start_step
        self.config.max_num_iterations = max(self.pipeline.first_step + total - self._start_step, 0)
        with errors_in_one_line("harmonize"):
            try:
                super().train()
            finally:
                self.config.max_num_iterations = total
            if self.config.final_report and self.pipeline.datamanager.eval_dataset:
                self._report()
        if not self.config.viewer.quit_on_train_completion:
            self._train_complete_viewer()

    def _load_checkpoint(self) -> None:
        path = self._checkpoint_to_load()
        if path is None:
            CONSOLE.print("No checkpoint to load, so training from scratch.")
            return
        state = read_checkpoint(path)
        with damage_of(path):
            self._start_step = state["step"] + 1
            self.pipeline.first_step = self._start_step  # a harmonize run's own checkpoint then restores its first step
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
            self._load_optimizers(state, path)
        CONSOLE.print(f"Loaded {path}, which ended at step {state['step']}")

    def _checkpoint_to_load(self) -> Path | None:
        if self.config.load_dir is None:
            return self.config.load_checkpoint
        if self.config.load_step is not None:
            return self.config.load_dir / f"step-{self.config.load_step:09d}.ckpt"
        return newest_checkpoint(self.config.load_dir)

    def _load_optimizers(self, state: dict[str, Any], path: Path) -> None:
        missing = self.optimizers.optimizers.keys() - state["optimizers"].keys()
        if missing:
            raise InputError(f"{path} has no optimizer state for {sorted(missing)}; was it made with other options?")
        # Loading a splat of another size replaces the model's parameters; the optimizers must change the present ones.
        self.optimizers = self.setup_optimizers()
        present = {name: group for name, group in state["optimizers"].items() if name in self.optimizers.optimizers}
        self.optimizers.load_optimizers(present)
        if self.config.load_scheduler:
            schedulers = {k: v for k, v in state["schedulers"].items() if k in self.optimizers.schedulers}
            self.optimizers.load_schedulers(schedulers)
        self.grad_scaler.load_state_dict(state["scalers"])

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Save everything, atomically: the last good checkpoint stays until the new one is complete.

        Args:
            step: the step that has just been trained.

        Raises:
            InputError: when the file cannot be written, for example on a full disk.
        """
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        advice = "Earlier checkpoints in that folder are intact; make room and resume with --load-dir"
        # Written beside the checkpoint folder: nerfstudio parses every name in it.
        with written_whole(path, advice, folder=self.base_dir) as partial:
            torch.save(self._state(step), partial)
        if self.config.save_only_latest_checkpoint:
            for old in self.checkpoint_dir.glob("*.ckpt"):
                if old != path:
                    old.unlink()

    def _state(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "pipeline": self.pipeline.state_dict(),
            "optimizers": {name: item.state_dict() for name, item in self.optimizers.optimizers.items()},
            "schedulers": {name: item.state_dict() for name, item in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
        }

    def _after_train(self) -> None:
        """Finish as upstream does, but let the viewer wait for its user later, after the report."""
        quits = self.config.viewer.quit_on_train_completion
        self.config.viewer.quit_on_train_completion = True
        super()._after_train()
        self.config.viewer.quit_on_train_completion = quits

    def _report(self) -> None:
        metrics = self.pipeline.get_average_eval_image_metrics(step=self.step)
        baseline = self._train_baseline() if self.config.compare_to_baseline else None
        print_report(self.base_dir / "harmonize_report.json", metrics, baseline, self.pipeline.repairs.summary())

    def _train_baseline(self) -> dict[str, float]:
        """Train the plain method for the same steps with the same seed, and measure it."""
        CONSOLE.rule("Baseline: the same method without pseudo-views")
        writer.EVENT_WRITERS.clear()
        writer.GLOBAL_BUFFER.clear()
        seed_all(self.config.machine.seed)
        config = baseline_config(self.config, started_from_checkpoint=self.pipeline.first_step > 0)
        trainer = config.setup(local_rank=self.local_rank, world_size=self.world_size)
        trainer.setup()
        trainer.train()
        return trainer.pipeline.get_average_eval_image_metrics(step=trainer.step)


def baseline_config(config: HarmonizeTrainerConfig, *, started_from_checkpoint: bool) -> HarmonizeTrainerConfig:
    """The same run without pseudo-views and without enhancement, in a sub-folder ``baseline`` of the run.

    Args:
        config: of the run to compare with.
        started_from_checkpoint: whether that run began with a checkpoint of the plain method; the baseline then does.
    """
    baseline = deepcopy(config)
    baseline.pipeline.enhancer = "none"
    return dataclasses.replace(
        baseline,
        load_dir=None,
        load_checkpoint=config.load_checkpoint if started_from_checkpoint else None,
        timestamp=f"{config.timestamp}/baseline",
        vis="tensorboard",
        final_report=False,
        compare_to_baseline=False,
    )


def newest_checkpoint(folder: Path) -> Path:
    """A run's last checkpoint.

    Raises:
        InputError: when there is none.
    """
    steps = {int(step): path for path in folder.glob("step-*.ckpt") if (step := path.stem[5:]).isdecimal()}
    if not steps:
        raise InputError(f"no step-*.ckpt in {folder}; give the nerfstudio_models folder of a run")
    return steps[max(steps)]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a nerfstudio checkpoint without running any code from it.

    Raises:
        InputError: when the file is missing, broken, or not a nerfstudio checkpoint.
    """
    state = read_torch(path)
    expected = {"step": int, "pipeline": dict, "optimizers": dict, "schedulers": dict, "scalers": dict}
    if not isinstance(state, dict) or not expected.keys() <= state.keys():
        found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise InputError(f"{path} is not a nerfstudio checkpoint: it holds {found}, expected {sorted(expected)}")
    for name, kind in expected.items():
        if not isinstance(state[name], kind):
            found = type(state[name]).__name__
            raise InputError(f"{path} is damaged: {name} should be a {kind.__name__}, it is a {found}")
    return state
