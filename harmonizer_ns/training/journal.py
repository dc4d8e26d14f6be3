# SPDX-License-Identifier: Apache-2.0
"""A run tells of itself: ``log.jsonl``, sample sheets, tensorboard or wandb, and a progress bar or plain lines."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import written_whole
from harmonizer_ns.images import contact_sheet, save_image, to_pixels
from harmonizer_ns.training.trainee import Pictures

Tracker = Literal["tensorboard", "wandb", "none"]
Values = dict[str, float]

SAMPLES = "samples"
"""Folder of the sheets, below the run's."""
_REMEDY = "Continue from the last checkpoint with --resume when there is space"


class Sink:
    """Is a place for curves and pictures; this one keeps nothing."""

    def scalars(self, values: Values, step: int) -> None:
        """Keep values of one step."""

    def picture(self, name: str, image: Float[Tensor, "3 h w"], step: int) -> None:
        """Keep an image of one step, in [0, 1]."""

    def close(self) -> None:
        """Write what is left."""


class TensorboardSink(Sink):
    """Writes event files in ``folder``."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def scalars(self, values: Values, step: int) -> None:
        """Keep values of one step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, image: Float[Tensor, "3 h w"], step: int) -> None:
        """Keep an image of one step, in [0, 1]."""
        self._writer.add_image(name, image.clamp(0, 1), step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WandbSink(Sink):
    """Sends to a run of Weights & Biases, continued after a resume of the same folder."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ImportError("--saving.tracker wandb needs wandb: pip install wandb") from error
        self._wandb = wandb
        path = folder.resolve()
        name = f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        self._run = wandb.init(project="harmonizer", name=name, id=name, resume="allow", dir=folder, config=config)

    def scalars(self, values: Values, step: int) -> None:
        """Keep values of one step."""
        self._run.log(values, step=step)

    def picture(self, name: str, image: Float[Tensor, "3 h w"], step: int) -> None:
        """Keep an image of one step, in [0, 1]."""
        self._run.log({name: self._wandb.Image(to_pixels(image))}, step=step)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


def open_sink(tracker: Tracker, folder: Path, step: int, config: dict[str, Any]) -> Sink:
    """Open the tracker of that name; curves after ``step``, from a part of the run that is repeated, are dropped."""
    if tracker == "tensorboard":
        return TensorboardSink(folder / "tensorboard", step)
    if tracker == "wandb":
        return WandbSink(folder, config)
    return Sink()


class Journal:
    """Tells of a run while it trains; the main process has one.

    Args:
        folder: the run's.
        sink: where curves and pictures go besides files.
        step: steps done before; later entries in ``log.jsonl`` are dropped.
        steps: of the whole run.
    """

    def __init__(self, folder: Path, sink: Sink, step: int, steps: int) -> None:
        self._folder, self._path, self._sink = folder, folder / "log.jsonl", sink
        entries = [entry for entry in read_log(folder) if entry["step"] <= step]
        with written_whole(self._path, _REMEDY) as partial:
            partial.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task("training", total=steps, completed=step)
        self._progress.start()

    def advance(self, step: int, loss: float) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step, description=f"loss {loss:.4f}")

    def write(self, step: int, values: Values) -> None:
        """Keep values of a step, but for those that are not finite; print them where there is no bar.

        Raises:
            InputError: when the disk is full.
        """
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        try:
            with self._path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {error}. {_REMEDY}") from error
        self._sink.scalars(values, step)
        if self._progress.disable:
            self.say(f"step {step} " + " ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def sheet(self, rows: list[Pictures], step: int) -> None:
        """Keep a picture of a step with a row for each view: input, output, target, and reference where there is one.

        Raises:
            InputError: when it cannot be written.
        """
        image = contact_sheet([[view for view in row if view is not None] for row in rows])
        with written_whole(self._folder / SAMPLES / f"step-{step:08d}.png", _REMEDY) as partial:
            save_image(partial, image)
        self._sink.picture("samples", image, step)

    def say(self, message: str) -> None:
        """Print one line for the reader."""
        self._console.print(message, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        """End the bar, write what is left."""
        self._progress.stop()
        self._sink.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Read every entry of a run's ``log.jsonl``; a last line that was cut off is left out."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def curves(entries: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, list[tuple[int, float]]]:
    """Collect the named curves of a log, those that are there."""
    found = {name: [(entry["step"], entry[name]) for entry in entries if name in entry] for name in names}
    return {name: points for name, points in found.items() if points}
