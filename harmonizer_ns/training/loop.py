# SPDX-License-Identifier: Apache-2.0
"""This module is the training loop, for every kind of network; one process or several."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import locked, remove_leftovers
from harmonizer_ns.finite import SkippedSteps
from harmonizer_ns.interruption import Interruption
from harmonizer_ns.training.checkpoints import RunState, list_runs, load_run, require_space, save_run
from harmonizer_ns.training.config import TrainingConfig
from harmonizer_ns.training.journal import SAMPLES, Journal, open_sink
from harmonizer_ns.training.stepper import Report, Stepper
from harmonizer_ns.training.trainee import Data, Trainee

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKPOINTS, RESULT = "checkpoints", "enhancer"
"""Folders below the output folder."""


@dataclass(frozen=True)
class Outcome:
    """Tells how a run ended.

    Args:
        step: optimizer steps done.
        finished: False when it was interrupted; it can then be resumed.
        skipped: steps that changed nothing because their gradient was not finite.
        figures: of the last validation; empty without validation data.
    """

    step: int
    finished: bool
    skipped: int
    figures: dict[str, float]


class Run:
    """Is one training run, in one of its processes.

    Args:
        config: its options.
        trainee: what learns, on the accelerator's device.
        data: what it learns from.
        accelerator: device, processes, precision.

    Raises:
        InputError: when the output folder holds another run, cannot be resumed from, or is short of space.
    """

    def __init__(self, config: TrainingConfig, trainee: Trainee, data: Data, accelerator: Accelerator) -> None:
        self.config, self.trainee, self.data, self.accelerator = config, trainee, data, accelerator
        self.identity = _identity(config, data, trainee.network, accelerator.num_processes)
        self.stepper = Stepper(config, trainee, accelerator)
        self.step = self.saved = 0
        self.skipped = SkippedSteps(config.optimizer.max_skipped)
        self.figures: dict[str, float] = {}
        self._begin()

    def train(self) -> Outcome:
        """Train up to ``max_steps``, or until interrupted; checkpoints, and at the end an enhancer, are written.

        Raises:
            InputError: when memory or disk run out, or gradients stay without finite values.
        """
        saving, last = self.config.saving, self.config.schedule.max_steps
        with self._journal() as journal, Interruption() as interruption:
            for batches in self._batches():
                self.step += 1
                report = self.stepper.step(self.step, batches)
                self.skipped.add(report.taken)
                self._tell(journal, report)
                self.skipped.check(self.step, self._skipped_advice())
                if self.step % saving.every == 0:
                    self._save()
                if self.step % saving.validate_every == 0 or self.step == last:
                    self._validate(journal)
                if self._agreed(interruption.asked):
                    break
            self._save()
            if self.step >= last:
                self._export(journal)
        return Outcome(self.step, self.step >= last, self.skipped.count, self.figures)

    def _begin(self) -> None:
        """Continue from the newest checkpoint, or make sure that there is none."""
        folder = self.config.output / CHECKPOINTS
        found = list_runs(folder)
        if found and not self.config.resume:
            raise InputError(
                f"{self.config.output} holds a run already ({found[-1].name}): continue it with --resume, or give "
                "another --output"
            )
        if self.config.resume:
            if not found:
                raise InputError(f"nothing to resume: {folder} holds no checkpoint; leave out --resume to begin a run")
            self._load(load_run(found[-1]))
        weights, learning = self.trainee.network.parameters(), self.stepper.parameters.values()
        require_space(self.config.output, sum(p.nbytes for p in weights) + 4 * sum(p.nbytes for p in learning))
        self.accelerator.wait_for_everyone()  # else another process may find this run's first checkpoint

    def _load(self, content: RunState) -> None:
        before, now = content.state["identity"], self.identity
        if before.get("precision") == "no":  # the word of older runs
            before["precision"] = "fp32"
        # Options that either version has not cannot differ.
        changed = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
        if changed:
            lines = [f"{name} was {before[name]!r}, is {now[name]!r}" for name in changed]
            raise InputError(f"{self.config.output} holds another run: {'; '.join(lines)}")
        self.stepper.load(content.tensors, content.state["scaler"])
        self.step = self.saved = content.step
        self.skipped.count = content.state["skipped"]

    def _batches(self) -> Iterator[list[Any]]:
        """Give the batches of each step that is left, loaded ahead."""
        options, count = self.config.data, self.config.data.accumulation
        draws = range(self.step * count, self.config.schedule.max_steps * count)
        loader = DataLoader(
            _Draws(self.data, count),
            batch_size=None,
            sampler=draws,
            num_workers=options.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        batches = iter(loader)
        for _ in range(self.step, self.config.schedule.max_steps):
            yield [next(batches) for _ in range(count)]

    def _skipped_advice(self) -> str:
        rate = self.config.optimizer.learning_rate
        return (
            f"lower --optimizer.learning-rate (it is {rate:g}), raise --schedule.warm-up, or use another --precision; "
            f"checkpoints in {self.config.output / CHECKPOINTS} are from before"
        )

    def _tell(self, journal: Journal | None, report: Report) -> None:
        if journal is None:
            return
        journal.advance(self.step, report.loss)
        if self.step % self.config.saving.log_every == 0 or self.step == 1 or not report.taken:
            journal.write(self.step, {"loss": report.loss, **report.values, "skipped": self.skipped.count})

    def _validate(self, journal: Journal | None) -> None:
        """Measure the averaged weights on the validation data, and show what they do; the main process does."""
        if journal is not None:
            self.trainee.network.eval()
            with self.stepper.average.applied(), torch.no_grad():
                self.figures, pictures = self.trainee.validate(self.data.validation(), self.step)
            self.trainee.network.train()
            if self.figures:
                journal.write(self.step, {f"test/{name}": value for name, value in self.figures.items()})
            if pictures:
                journal.sheet(pictures[:_SHEET_ROWS], self.step)
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        """Write a checkpoint of this step, once; the main process does."""
        if self.accelerator.is_main_process and self.step > self.saved:
            state = {
                "identity": self.identity,
                "preset": self.config.preset,
                "scaler": self.stepper.scaler.state_dict(),
                "skipped": self.skipped.count,
            }
            content = RunState(self.step, self.stepper.tensors(), state)
            save_run(self.config.output / CHECKPOINTS, content, self.config.saving.keep)
        self.saved = self.step
        self.accelerator.wait_for_everyone()

    def _export(self, journal: Journal | None) -> None:
        """Write the enhancer folder; the main process does."""
        if journal is not None:
            folder = self.config.output / RESULT
            training = {"preset": self.config.preset, "steps": self.step, "config": plain(self.config)}
            with self.stepper.average.applied():
                self.trainee.export(folder, {"training": training, "figures": self.figures})
            journal.say(f"{self.step} steps done, {self.skipped.count} skipped; the enhancer is in {folder}")
        self.accelerator.wait_for_everyone()

    def _agreed(self, asked: bool) -> bool:
        """Tell whether any process was asked to stop."""
        if self.accelerator.num_processes == 1:
            return asked
        flag = torch.tensor(float(asked), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)  # type: ignore[operator]

    @contextmanager
    def _journal(self) -> Iterator[Journal | None]:
        """Hold the output folder and open the run's journal in the main process; the others have None."""
        if not self.accelerator.is_main_process:
            yield None
            return
        with locked(self.config.output):
            remove_leftovers(self.config.output, self.config.output / CHECKPOINTS, self.config.output / SAMPLES)
            with closing(self._open_journal()) as journal:
                yield journal

    def _open_journal(self) -> Journal:
        config = self.config
        sink = open_sink(config.saving.tracker, config.output, self.step, plain(config))
        journal = Journal(config.output, sink, self.step, config.schedule.max_steps)
        learning = sum(value.numel() for value in self.stepper.parameters.values())
        journal.say(f"{config.preset}: {learning:,} parameters learn, from step {self.step} on")
        return journal


_SHEET_ROWS = 4


class _Draws(Dataset):
    """Numbers the batches of a run, one after the other."""

    def __init__(self, data: Data, per_step: int) -> None:
        self.data, self.per_step = data, per_step

    def __getitem__(self, index: int) -> Any:
        return self.data.batch(index // self.per_step + 1, index % self.per_step)


def plain(config: TrainingConfig) -> dict[str, Any]:
    """Turn the options into JSON values; local paths stay out."""
    values = asdict(config)
    for name in ("pairs", "output", "model", "resume", "device"):
        del values[name]
    for name in ("backbone", "heads", "raft"):
        del values["loss"][name]
    return values


_FREE = {
    "data": ("batch", "accumulation", "workers", "allow_outside", "validation_pairs"),
    "optimizer": ("max_skipped", "gradient_checkpointing"),
    "schedule": ("max_steps",),
}
"""Options that may differ when a run is continued, besides those of saving."""


def _identity(config: TrainingConfig, data: Data, network: nn.Module, processes: int) -> dict[str, Any]:
    """Collect what has to stay the same in a continued run: options that matter, by name, data, and frozen weights."""
    values = plain(config)
    del values["saving"]
    for group, names in _FREE.items():
        values[group] = {name: value for name, value in values[group].items() if name not in names}
    groups = {name: value if isinstance(value, dict) else {"": value} for name, value in values.items()}
    flat = {f"{group}.{name}".rstrip("."): value for group, names in groups.items() for name, value in names.items()}
    # As JSON gives it back: tuples are lists there.
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()}
    return {
        **options,
        "the number of pairs in a step": config.data.batch * config.data.accumulation * processes,
        "the pairs": data.fingerprint(),
        "the model": _frozen_fingerprint(network),
    }


def _frozen_fingerprint(network: nn.Module) -> str:
    """Digest the weights that do not learn, by their names and first values."""
    digest = hashlib.sha256()
    for name, value in network.named_parameters():
        if not value.requires_grad:
            digest.update(name.encode())
            digest.update(value.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
