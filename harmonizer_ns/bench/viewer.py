# SPDX-License-Identifier: Apache-2.0
"""What a resting viewer costs training: steps per second with nobody connected, and with a client that does not move.

Both are measured by turns in one run, so that a growing scene or a warming machine touches both alike.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

from gsplat_trainer.config import DefaultConfig
from gsplat_trainer.scene import load_data
from gsplat_trainer.trainer import Trainer
from gsplat_trainer.viewer import LiveViewer
from harmonizer_ns.bench.watcher import Watcher
from harmonizer_ns.devices import Device, choose_device
from harmonizer_ns.files import asset
from harmonizer_ns.raster.gsplat_kernels import prepare_rasterizer


@dataclass(frozen=True)
class ViewerBench:
    """Time training with a viewer: nobody connected against a client at rest, enhancement on."""

    data: Path | None = None
    """Folder of a capture; the demo scene by default."""
    data_factor: int = 1
    """Photos are used this many times smaller."""
    enhancer: str = "builtin"
    """Name of an enhancer, or folder of a checkpoint."""
    rounds: int = 5
    """Measurements of each kind."""
    seconds: float = 20.0
    """Length of one."""
    device: Device = "auto"
    """Where to train; auto takes a GPU when there is one."""


class _FinishedError(Exception):
    """All rounds are done: what ends a training that would go on for ever."""


@dataclass
class Rates:
    """Steps per second, measurement by measurement, and the pictures that were sent in those with a client."""

    alone: list[float] = field(default_factory=list)
    watched: list[float] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)


class _MeasuredViewer(LiveViewer):
    """A viewer that goes on with a measurement after every step of the trainer; training ends with it."""

    measurement: Iterator[None]

    def after_step(self, step: int) -> None:
        """The viewer's, then the measurement's."""
        super().after_step(step)
        try:
            next(self.measurement)
        except StopIteration:
            raise _FinishedError from None


def _measurement(bench: ViewerBench, port: int, rates: Rates) -> Iterator[None]:
    """By turns without and with a client, which first waits for a picture."""
    for _ in range(bench.rounds):
        rates.alone.append((yield from _steps_per_second(bench.seconds)))
        with Watcher(port) as watcher:
            while not watcher.pictures:
                yield
            before = len(watcher.pictures)
            rates.watched.append((yield from _steps_per_second(bench.seconds)))
            rates.pictures.append(len(watcher.pictures) - before)


def _steps_per_second(seconds: float) -> Generator[None, None, float]:
    started, steps, passed = time.perf_counter(), 0, 0.0
    while passed < seconds:
        yield
        steps, passed = steps + 1, time.perf_counter() - started
    return steps / passed


def run(bench: ViewerBench) -> None:
    """Train, and print both rates."""
    device = torch.device(choose_device(bench.device))
    prepare_rasterizer(device)
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(bench, Path(folder), device)
    slower = median(1 - b / a for a, b in zip(rates.alone, rates.watched, strict=True))
    spread = max(rates.alone) / min(rates.alone) - 1
    print(f"nobody connected:  {median(rates.alone):.2f} steps/s")
    print(f"a client at rest:  {median(rates.watched):.2f} steps/s, {sum(rates.pictures)} pictures sent")
    print(f"slower by {slower:.1%} (median of {bench.rounds} pairs; nobody's own rates spread by {spread:.1%})")


def measure(bench: ViewerBench, folder: Path, device: torch.device) -> Rates:
    """The rates of a run that learns without density control, so that its steps cost the same all along."""
    config = DefaultConfig(
        data_dir=bench.data or asset("demo"),
        data_factor=bench.data_factor,
        result_dir=folder,
        enhancer=bench.enhancer,
        steps_per_fix=0,
        seeds="capture",
        max_steps=10**9,
        eval_steps=[],
        save_steps=[],
        lpips_net="none",
        render_traj_path="none",
        port=8765,
    )
    config.strategy.refine_start_iter = config.max_steps
    config.strategy.reset_every = config.max_steps
    trainer = Trainer(config, load_data(config), device)
    rates = Rates()
    trainer.viewer = viewer = _MeasuredViewer(config, trainer.scene, trainer.repairs, device)
    viewer.server.panel.enabled.value = True
    viewer.measurement = _measurement(bench, viewer.server.port, rates)
    try:
        trainer.train()
    except _FinishedError:
        return rates
    finally:
        viewer.server.close()
        trainer.outputs.close()
    raise RuntimeError("the run ended before its measurements")
