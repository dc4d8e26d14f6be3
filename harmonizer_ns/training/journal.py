# SPDX-License-Identifier: Apache-2.0
"""What a run tells: ``OUTPUT/log.jsonl``, tensorboard or wandb, a progress bar or plain lines."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Tracker = Literal["tensorboard", "wandb", "none"]
Values = dict[str, float]


class Sink(Protocol):
    """A place for curves and pictures."""

    def scalars(self, values: Values, step: int) -> None:
        """Values of one step."""
        ...

    def picture(self, name: str, path: Path, step: int) -> None:
        """A PNG file."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class NoSink:
    """Keeps nothing."""

    def scalars(self, values: Values, step: int) -> None:
        """Nothing."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class TensorboardSink:
    """Event files in ``folder``."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def scalars(self, values: Values, step: int) -> None:
        """Values of one step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """A PNG file."""
        from harmonizer_ns.images import load_image

        self._writer.add_image(name, load_image(path), step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WandbSink:
    """A run of Weights & Biases, continued after a resume of the same folder."""

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
        """Values of one step."""
        self._run.log(values, step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """A PNG file."""
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


def open_sink(tracker: Tracker, folder: Path, step: int, config: dict[str, Any]) -> Sink:
    """The tracker of that name; curves after ``step``, from a part of the run that is repeated, are dropped."""
    if tracker == "tensorboard":
        return TensorboardSink(folder / "tensorboard", step)
    if tracker == "wandb":
        return WandbSink(folder, config)
    return NoSink()


class Journal:
    """Of the main process.

    Args:
        folder: the run's.
        sink: where curves and pictures go besides ``log.jsonl``.
        step: steps done before; later entries in ``log.jsonl`` are dropped.
        steps: of the whole run.
    """

    def __init__(self, folder: Path, sink: Sink, step: int, steps: int) -> None:
        self._path, self._sink = folder / "log.jsonl", sink
        entries = [entry for entry in read_log(folder) if entry["step"] <= step]
        self._path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
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
        """Keep values of a step, but for those that are not finite; print them where there is no bar."""
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self._sink.scalars(values, step)
        if self._progress.disable:
            self.say(f"step {step} " + " ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def picture(self, name: str, path: Path, step: int) -> None:
        """Pass a PNG file on."""
        self._sink.picture(name, path, step)

    def say(self, message: str) -> None:
        """One line for the reader."""
        self._console.print(message, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        """End the bar, write what is left."""
        self._progress.stop()
        self._sink.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Every entry of a run's ``log.jsonl``; a last line that was cut off is left out."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def curves(entries: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, list[tuple[int, float]]]:
    """The named curves of a log, those that are there."""
    found = {name: [(entry["step"], entry[name]) for entry in entries if name in entry] for name in names}
    return {name: points for name, points in found.items() if points}
