# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's trainer writes checkpoints that survive a full disk here, resumes exactly, and reports at the end."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import comms, writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE

from harmonizer_ns.captures.frame import write_origin
from harmonizer_ns.distill.run_report import Trained
from harmonizer_ns.distill.settings import NS_TRAIN
from harmonizer_ns.distill.view_files import named_views, views_beside, views_folder
from harmonizer_ns.errors import InputError, damage_of, errors_in_one_line
from harmonizer_ns.files import by_number, locked, read_torch, remove_leftovers, written_whole
from harmonizer_ns.finite import SkippedSteps, check_finite
from harmonizer_ns.interruption import Interruption, InterruptionError
from harmonizer_ns.plugin.dataparser import PlyNerfstudio
from harmonizer_ns.plugin.optimizers import FiniteOptimizers
from harmonizer_ns.plugin.pipeline import HarmonizePipeline, HarmonizePipelineConfig
from harmonizer_ns.plugin.report import write_reports
from harmonizer_ns.plugin.terminal import print_settings
from harmonizer_ns.random_state import seed_all
from harmonizer_ns.splats.model import MIN_POINTS

_OTHER_FOLDER = "--timestamp or --output-dir"


@dataclass
class HarmonizeTrainerConfig(TrainerConfig):
    """nerfstudio's trainer settings, and what the final report holds."""

    _target: type = field(default_factory=lambda: HarmonizeTrainer)
    pipeline: HarmonizePipelineConfig = field(default_factory=HarmonizePipelineConfig)
    """Data, model, and how views are repaired."""
    final_report: bool = True
    """Measure rgb and rgb_enhanced on all held-out photos when training ends; print the table, write report.html."""
    open_report: bool = False
    """Show report.html in the browser when the run has ended."""
    compare_to_baseline: bool = False
    """Also train the plain method (same seed, same steps, no pseudo-views) and put it into the final report."""

    def print_to_terminal(self) -> None:
        """Print what a user asks about a run first, not all of its settings."""
        folder, pipeline = self.get_base_dir(), self.pipeline
        settings = {
            "method": self.method_name,
            "capture": self.data or pipeline.datamanager.data,
            "steps": self.max_num_iterations,
            "enhancer": pipeline.enhancer,
            "targets": pipeline.camera_path if pipeline.targets == "path" else pipeline.targets,
            "results": folder,
            "all settings": folder / NS_TRAIN,
        }
        print_settings(settings)

    def save_config(self) -> None:
        """Write config.yml into the run's folder.

        Raises:
            SystemExit: when the folder cannot be written, or another run is at work in it; the message names it.
        """
        with errors_in_one_line("harmonize"), locked(self.get_base_dir(), _OTHER_FOLDER):
            super().save_config()


class HarmonizeTrainer(Trainer):
    """Trains a `HarmonizePipeline`."""

    config: HarmonizeTrainerConfig
    pipeline: HarmonizePipeline  # pyright: ignore[reportIncompatibleVariableOverride]
    optimizers: FiniteOptimizers  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.skipped, self.interruption = SkippedSteps(), Interruption()
        self._taken = self._last = -1  # the step that was taken last, and the last one to take
        self._stopped = False
        self.seconds = 0.0  # of training, in this process

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

    @property
    def stop_training(self) -> bool:
        """Whether upstream's loop should end before its next step."""
        return self._stopped or self.interruption.asked

    @stop_training.setter
    def stop_training(self, value: bool) -> None:
        self._stopped = value

    def train(self) -> None:
        """Train up to ``max_num_iterations``, counted from the first step of the whole run, or until interrupted.

        A resumed run ends where the uninterrupted one would have ended; upstream would train that many more steps.

        Raises:
            SystemExit: with one message, when what was trained cannot be written, or the run was interrupted.
        """
        left = self.pipeline.first_step + self.config.max_num_iterations - self._start_step
        self._last, self._taken = self._start_step + left - 1, self._start_step - 1
        writer.GLOBAL_BUFFER["max_iter"] = self._last + 1
        with errors_in_one_line("harmonize"), self._folder_held():
            self.step = self._taken
            if left > 0:
                self._train_steps(left)
            else:
                CONSOLE.print(f"This run is finished: {self._checkpoint_to_load()} holds its last step {self.step}")
                self._init_viewer_state()
            if self._taken < self._last:
                raise SystemExit(f"harmonize: interrupted after step {self._taken}; {self._last_checkpoint()}")
            if self.config.final_report:
                self._report()
        if not self.config.viewer.quit_on_train_completion:
            self._train_complete_viewer()

    @contextmanager
    def _folder_held(self) -> Iterator[None]:
        """Nobody else works in the run's folder meanwhile; the main process sees to that."""
        if not comms.is_main_process():
            yield
            return
        with locked(self.base_dir, _OTHER_FOLDER):
            remove_leftovers(self.base_dir, views_folder(self.checkpoint_dir))
            yield

    def _train_steps(self, count: int) -> None:
        """Train so many steps as upstream does, or fewer when the user asks for it; what was trained is saved."""
        total, self.config.max_num_iterations = self.config.max_num_iterations, count
        start = time.perf_counter()
        try:
            with self.interruption if self.world_size == 1 else nullcontext():  # several would end at different steps
                super().train()
        except InterruptionError:
            self._after_train()
        finally:
            self.config.max_num_iterations, self.seconds = total, time.perf_counter() - start

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
            self.pipeline.views = views_folder(path.parent)
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

    def setup_optimizers(self) -> FiniteOptimizers:
        """Upstream's optimizers, which take a step only when all is finite, for what the run begins with."""
        if self._checkpoint_to_load() is None:
            self.pipeline.seed(self.base_dir)
        groups = self.pipeline.get_param_groups()
        return FiniteOptimizers(self.config.optimizers.copy(), groups, lambda: self.pipeline.losses)

    def train_iteration(self, step: int) -> Any:
        """Train one step as upstream does, unless loss or gradients are not finite; then nothing changes.

        Raises:
            InputError: after too many steps in a row that were not.
        """
        scale = self.grad_scaler.get_scale()
        result = super().train_iteration(step)
        self._taken = step
        _, losses, metrics = result
        taken = self.optimizers.taken and self.grad_scaler.get_scale() >= scale
        self.skipped.add(taken)
        if not taken:
            CONSOLE.log(self.skipped.told(step))
            self.skipped.check(step, self._last_checkpoint())
        else:
            splats = {"splats/": metrics["gaussian_count"]} if "gaussian_count" in metrics else {}
            self.pipeline.curves.add(step, {**{f"loss/{name}": value for name, value in losses.items()}, **splats})
        self.pipeline.model.step_skipped = not taken  # pyright: ignore[reportArgumentType]
        return result

    def _last_checkpoint(self) -> str:
        """Say how to go on from the last good checkpoint."""
        saved = any(self.checkpoint_dir.glob("step-*.ckpt"))
        path = newest_checkpoint(self.checkpoint_dir) if saved else self._checkpoint_to_load()
        if path is None:
            return "nothing was saved before"
        return f"the last good checkpoint is {path}, go on with --load-checkpoint {path}"

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Save everything, atomically: the last good checkpoint stays until the new one is complete.

        Args:
            step: the step that has just been trained.

        Raises:
            InputError: when the file cannot be written, for example on a full disk, and when the state is not finite.
        """
        path, state = self.checkpoint_dir / f"step-{step:09d}.ckpt", self._state(step)
        check_finite(state, path.name, self._last_checkpoint())
        advice = "Earlier checkpoints in that folder are intact; make room and resume with --load-dir"
        with views_beside(path, self.pipeline.repairs.store, "*.ckpt*", views_named):
            # Written beside the checkpoint folder: nerfstudio parses every name in it.
            with written_whole(path, advice, folder=self.base_dir) as partial:
                torch.save(state, partial)
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
        """Finish as upstream does, but let the viewer wait for its user later, after the report.

        An interrupted run is saved only, if it has taken a step.
        """
        if self._taken < self._last:
            if self._taken >= self._start_step:
                self.save_checkpoint(self._taken)
                writer.write_out_storage()
            return
        quits = self.config.viewer.quit_on_train_completion
        self.config.viewer.quit_on_train_completion = True
        super()._after_train()
        self.config.viewer.quit_on_train_completion = quits

    def _report(self) -> None:
        """Measure the model and tell, with the plain one if that is asked for; without if that ends early."""
        trained, plain = self._measured(), None
        try:
            plain = self._train_baseline() if self.config.compare_to_baseline else None
        finally:
            write_reports(self.base_dir, self.config, self.pipeline, trained, plain)

    def _measured(self) -> Trained:
        """Measure the model on held-out photos, if there are any."""
        pipeline = self.pipeline
        metrics = pipeline.get_average_eval_image_metrics(step=self.step) if pipeline.photos.held_out else {}
        return Trained(metrics, pipeline.held_out, pipeline.curves, self.seconds)

    def _train_baseline(self) -> Trained:
        """Train the plain method for the same steps with the same seed, and measure it."""
        CONSOLE.rule("Baseline: the plain method")
        writer.EVENT_WRITERS.clear()
        writer.GLOBAL_BUFFER.clear()
        seed_all(self.config.machine.seed)
        points = self.pipeline.photos.points
        config = baseline_config(
            self.config,
            started_from_checkpoint=self.pipeline.first_step > 0,
            has_points=points is not None and len(points) >= MIN_POINTS,
        )
        if comms.is_main_process():
            config.save_config()
        trainer: HarmonizeTrainer = config.setup(local_rank=self.local_rank, world_size=self.world_size)
        trainer.setup()
        trainer.train()
        return trainer._measured()


def baseline_config(
    config: HarmonizeTrainerConfig, *, started_from_checkpoint: bool, has_points: bool
) -> HarmonizeTrainerConfig:
    """The same run as nerfstudio would do it, in a sub-folder ``baseline``.

    It begins at the capture's points, has neither repairs nor photos' depth, and opacity costs nothing.

    Args:
        config: of the run to compare with.
        started_from_checkpoint: whether that run began with a checkpoint of the plain method; the baseline then does.
        has_points: whether the capture has enough points to begin with; without, the baseline begins as the run did.
    """
    baseline = deepcopy(config)
    baseline.pipeline.enhancer, baseline.pipeline.depth_weight = "none", 0.0
    if hasattr(baseline.pipeline.model, "opacity_reg"):
        baseline.pipeline.model.opacity_reg = 0.0
    if has_points:
        baseline.pipeline.seeds = "capture"
    baseline.pipeline.geometry_dir = config.pipeline.geometry_dir or config.get_base_dir()
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
    found = by_number(path for path in folder.glob("step-*.ckpt") if path.stem[5:].isdecimal())
    if not found:
        raise InputError(f"no step-*.ckpt in {folder}; give the nerfstudio_models folder of a run")
    return found[-1]


def views_named(path: Path) -> set[str]:
    """Tell which pseudo-views a checkpoint names; see `named_views`.

    Raises:
        InputError: as `read_checkpoint`.
    """
    extra = read_checkpoint(path, mapped=True)["pipeline"].get("_extra_state")
    return named_views(extra and extra["distiller"])


def read_checkpoint(path: Path, mapped: bool = False) -> dict[str, Any]:
    """Read a nerfstudio checkpoint without running any code from it.

    Args:
        path: of the file.
        mapped: leave its tensors on the disk until they are used.

    Raises:
        InputError: when the file is missing, broken, or not a nerfstudio checkpoint.
    """
    state = read_torch(path, mapped)
    expected = {"step": int, "pipeline": dict, "optimizers": dict, "schedulers": dict, "scalers": dict}
    if not isinstance(state, dict) or not expected.keys() <= state.keys():
        found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise InputError(f"{path} is not a nerfstudio checkpoint: it holds {found}, expected {sorted(expected)}")
    for name, kind in expected.items():
        if not isinstance(state[name], kind):
            found = type(state[name]).__name__
            raise InputError(f"{path} is damaged: {name} should be a {kind.__name__}, it is a {found}")
    return state
