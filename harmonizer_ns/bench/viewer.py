# SPDX-License-Identifier: Apache-2.0
"""What a resting viewer costs training: steps per second with nobody connected, and with a client that does not move.

Both are measured by turns in one run, so that a growing scene or a warming machine touches both alike.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from gsplat_trainer.config import DefaultConfig
from gsplat_trainer.data import load_data
from gsplat_trainer.trainer import Trainer
from gsplat_trainer.viewer import LiveViewer
from harmonizer_ns.bench.watcher import Watcher
from harmonizer_ns.devices import choose_device
from harmonizer_ns.files import asset
from harmonizer_ns.raster.threads import give_cores_to_the_rasterizer


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
    device: str = "auto"
    """Where to train."""


class _EnoughError(Exception):
    """All rounds are done."""


class _Stopwatch:
    """A viewer that connects a client in every second measurement.

    Args:
        viewer: the one that is measured.
        bench: how long and how often.
    """

    def __init__(self, viewer: LiveViewer, bench: ViewerBench) -> None:
        self._viewer, self._bench = viewer, bench
        self._watcher: Watcher | None = None
        self._started: float | None = None
        self._steps, self._pictures = 0, 0
        self.rates: tuple[list[float], list[float]] = ([], [])
        self.pictures: list[int] = []

    def training(self) -> AbstractContextManager:
        """The viewer's."""
        return self._viewer.training()

    def after_step(self, step: int, rays: int) -> None:
        """Begin, go on with or end a measurement."""
        self._viewer.after_step(step, rays)
        if self._started is None:
            if self._settled:
                self._started, self._steps, self._pictures = time.perf_counter(), 0, self._count
            return
        self._steps += 1
        seconds = time.perf_counter() - self._started
        if seconds >= self._bench.seconds:
            self._finish(self._steps / seconds)

    def complete(self) -> None:
        """Stop serving, whoever watches."""
        self._viewer.server.close()

    @property
    def _count(self) -> int:
        return 0 if self._watcher is None else len(self._watcher.pictures)

    @property
    def _settled(self) -> bool:
        """Whether a new client has its first picture."""
        return self._watcher is None or self._count > 0

    def _finish(self, rate: float) -> None:
        self._started = None
        if self._watcher is None:
            self.rates[0].append(rate)
            self._watcher = Watcher(self._viewer.server.port).__enter__()
            return
        self.rates[1].append(rate)
        self.pictures.append(self._count - self._pictures)
        self._watcher.__exit__(None, None, None)
        self._watcher = None
        if len(self.rates[1]) == self._bench.rounds:
            raise _EnoughError


def run(bench: ViewerBench) -> None:
    """Train, and print both rates."""
    device = torch.device(choose_device(bench.device))
    if device.type == "cpu":
        give_cores_to_the_rasterizer()
    with tempfile.TemporaryDirectory() as folder:
        stopwatch = measure(bench, Path(folder), device)
    alone, watched = stopwatch.rates
    slower = median(1 - b / a for a, b in zip(alone, watched, strict=True))
    spread = max(alone) / min(alone) - 1
    print(f"nobody connected:  {median(alone):.2f} steps/s")
    print(f"a client at rest:  {median(watched):.2f} steps/s, {sum(stopwatch.pictures)} pictures sent")
    print(f"slower by {slower:.1%} (median of {bench.rounds} pairs; nobody's own rates spread by {spread:.1%})")


def measure(bench: ViewerBench, folder: Path, device: torch.device) -> _Stopwatch:
    """The rates of a run that learns without density control, so that its steps cost the same all along."""
    config = DefaultConfig(
        data_dir=bench.data or asset("demo"),
        data_factor=bench.data_factor,
        result_dir=folder,
        enhancer=bench.enhancer,
        steps_per_fix=0,
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
    viewer = LiveViewer(config, trainer.scene, trainer.repairs, device)
    viewer.server.panel.enabled.value = True
    trainer.viewer = stopwatch = _Stopwatch(viewer, bench)
    try:
        trainer.train()
    except _EnoughError:
        return stopwatch
    finally:
        stopwatch.complete()
        trainer.outputs.close()
    raise RuntimeError("the run ended before its measurements")
