# SPDX-License-Identifier: Apache-2.0
"""A run leaves its results in a folder, under the names that gsplat's trainer gives."""

from __future__ import annotations

import json
import math
import time
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from gsplat_trainer.checkpoint import newest_full
from gsplat_trainer.config import Config
from gsplat_trainer.trajectory import make_trajectory
from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.distill.curves import Curves
from harmonizer_ns.distill.held_out import SUFFIXES, HeldOutPhotos, held_out_view
from harmonizer_ns.distill.origin import Origin
from harmonizer_ns.distill.repairs import Repairs
from harmonizer_ns.distill.rounds import RoundReport, ViewReport
from harmonizer_ns.distill.run_report import Trained, run_report, write_run_report
from harmonizer_ns.distill.settings import GSPLAT_TRAINER
from harmonizer_ns.features import lpips_or_nan
from harmonizer_ns.files import write_json, written_whole
from harmonizer_ns.images import beside, save_image
from harmonizer_ns.media import written_video
from harmonizer_ns.metrics import SSIM_WINDOW, psnr, ssim
from harmonizer_ns.progress import StepBar
from harmonizer_ns.views import JudgedView

_PICTURES = {"render": "Pred", "repaired": "Fixed", "reference": "Ref", "weight": "Weight"}
"""Folders of a round's pictures, as in Difix3D+."""
_BOARD_SIDE = 256
"""Longer side of each picture of a round in tensorboard, in pixels."""
_FPS = 30
CHECKPOINTS = "ckpts"
FOLDERS = (CHECKPOINTS, "ply", "stats", "videos")
"""Where files are written whole, besides the result folder itself."""


class Outputs:
    """Writes files, tensorboard and the terminal; silent on all ranks but the first.

    Args:
        config: of the run.
        enabled: whether to write at all; statistics and checkpoints of every rank are.
    """

    def __init__(self, config: Config, enabled: bool) -> None:
        self.config, self.enabled = config, enabled
        self.folder = config.result_dir
        self.checkpoints = self.folder / CHECKPOINTS
        self._console = Console(quiet=not enabled)
        self.measured: dict[str, tuple[dict[str, float], HeldOutPhotos]] = {}  # by stage, as it was last
        self._lpips = None if config.lpips_net == "none" else lpips_or_nan(config.lpips_net, self.say)

    def say(self, message: str) -> None:
        """Print one line on the terminal."""
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    def bar(self, done: int) -> StepBar:
        """Show the steps of the run, ``done`` of which were taken before."""
        return StepBar(self._console, done, self.config.max_steps)

    def ply(self, step: int) -> Path:
        """Name the PLY after a step."""
        return self.folder / "ply" / f"point_cloud_{step}.ply"

    def last_checkpoint(self) -> str:
        """Say how to go on from the last good checkpoint."""
        if list(self.checkpoints.glob("full_*")):
            return f"the last good checkpoint is {newest_full(self.checkpoints, 0)}, go on with --resume {self.folder}"
        started = self.config.resume
        return "nothing was saved before" if started is None else f"the last good checkpoint is {started}"

    def write_config(self) -> None:
        """Write ``cfg.yml``, plain values only: paths as strings, tuples as lists.

        Raises:
            InputError: when the result folder cannot be written to.
        """
        if not self.enabled:
            return
        settings = json.loads(json.dumps(asdict(self.config), default=str))
        with written_whole(self.folder / GSPLAT_TRAINER, "give another --result_dir") as partial:
            partial.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")

    def stats(self, name: str, values: dict[str, float]) -> None:
        """Write ``stats/<name>.json``."""
        write_json(self.folder / "stats" / f"{name}.json", values, indent=None)

    @cached_property
    def _board(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder / "tb"))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Add tensorboard entries."""
        if self.enabled:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def log_round(self, report: RoundReport) -> None:
        """Say what a round did; pictures of every target go to ``renders/novel/<step>`` and, smaller, to tensorboard.

        There each target has one picture of all, ``target_0003.jpg``, and each kind its folder.
        """
        for line in report.lines():
            self.say(line)
        if report.failure is not None:
            return
        self.scalars(report.step, {"novel/mean_weight": report.mean_weight, "novel/position": report.position})
        for view in report.views:
            if view.images and self.enabled:
                self._save_pictures(view, report.step)

    def _save_pictures(self, view: ViewReport, step: int) -> None:
        folder = self.folder / "renders" / "novel" / f"{step}"
        for name, image in view.pictures().items():
            save_image(folder / _PICTURES[name] / f"{view.target:04d}.png", image)
        save_image(folder / f"target_{view.target:04d}.jpg", view.strip(step))
        self._board.add_image(f"novel/target_{view.target:04d}", view.strip(step, _BOARD_SIDE), step)

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def evaluate(self, scene: Capture, repairs: Repairs, step: int, stage: str, count: int) -> dict[str, float]:
        """Average over the held-out photos, raw and enhanced; pictures are photo, render and enhanced side by side.

        Returns:
            psnr, ssim and, where it can be had, lpips, each also with ``_enhanced``; seconds per render; the number of
            Gaussians. Metrics are missing when nothing is held out.
        """
        rows, photos, seconds = [], HeldOutPhotos(), 0.0
        for number, index in enumerate(scene.test):
            start = time.perf_counter()
            frames = repairs.renderer.render(scene.cameras[index])
            seconds += time.perf_counter() - start
            view = held_out_view(scene, index, frames, repairs)
            rows.append(self._metrics(view))
            photos.add(view, rows[-1])
            strip = beside([view.truth, *view.pictures.values()])
            save_image(self.folder / "renders" / f"{stage}_step{step}_{number:04d}.png", strip)
        names = [name for name in (rows[0] if rows else {}) if all(name in row for row in rows)]
        values = {name: sum(row[name] for row in rows) / len(rows) for name in names}
        self.measured[stage] = dict(values), photos
        self.scalars(step, {f"{stage}/{name}": value for name, value in values.items()})
        values["ellipse_time"] = seconds / max(len(rows), 1)
        values["num_GS"] = count
        if repairs.failed_rounds:
            values["failed_rounds"] = repairs.failed_rounds
        self.stats(f"{stage}_step{step:04d}", values)
        self.say(f"Step {step}, {len(rows)} held-out photos: " + ", ".join(f"{k} {v:.3f}" for k, v in values.items()))
        return values

    def _metrics(self, view: JudgedView) -> dict[str, float]:
        target, weight = view.truth[None], None if view.mask is None else view.mask[None]
        row = {}
        for suffix, role in SUFFIXES.items():
            if role not in view.pictures:
                continue
            image = view.pictures[role][None]
            row[f"psnr{suffix}"] = psnr(image, target, weight).item()
            if min(target.shape[-2:]) >= SSIM_WINDOW:
                row[f"ssim{suffix}"] = ssim(image, target, weight).item()
            if self._lpips is not None:
                row[f"lpips{suffix}"] = self._lpips(image, target).item()
        return {name: value for name, value in row.items() if not math.isnan(value)}

    def write_report(self, scene: Capture, repairs: Repairs, curves: Curves, seconds: float) -> None:
        """Write the report of a finished run; splats that it began with are what it is compared with."""
        settings = json.loads(json.dumps(asdict(self.config), default=str))
        parts = (part for i in (*scene.train, *scene.test) for part in (scene.photo(i), scene.mask(i)))
        content, cameras = [part for part in parts if part is not None], (scene.train_cameras, scene.test_cameras)
        origin = Origin(self.config.data_dir, *cameras, scene.points, content, settings)
        run = Trained(*self.measured.get("val", ({}, HeldOutPhotos())), curves, seconds)
        before = Trained(*self.measured["before"], Curves(1)) if "before" in self.measured else None
        what = "as it is" if self.config.ckpt else f"{self.config.max_steps} steps"
        title = f"gsplat-trainer on {scene.name}, {what}"
        write_run_report(
            self.folder,
            lambda: run_report(title, run, repairs, origin, before, "before"),
            self.say,
            opens=self.config.open_report,
        )

    # --- videos -------------------------------------------------------------------------------------------------------

    def write_videos(self, scene: Capture, repairs: Repairs, step: int) -> None:
        """Fly along the chosen path: ``videos/traj_<step>.mp4``, and enhanced, each frame knowing the last few."""
        cameras = make_trajectory(self.config.render_traj_path, scene.cameras, self.config.traj_frames)
        if not cameras or not self.enabled:
            return
        path = self.folder / "videos" / f"traj_{step}.mp4"
        with ExitStack() as stack:
            raw = stack.enter_context(written_video(path, _FPS))
            enhanced, stream = None, None
            if self.config.enhancer != "none":
                enhanced = stack.enter_context(written_video(path.with_stem(f"{path.stem}_enhanced"), _FPS))
                stream = repairs.stream()
            for camera in cameras:
                frames = repairs.renderer.render(camera)
                raw.write(frames.rgb[0])
                if enhanced is not None:
                    repaired = repairs.enhance(frames, stream)
                    enhanced.write((frames.rgb if repaired is None else repaired)[0])

    def close(self) -> None:
        """Flush tensorboard."""
        if self.enabled and "_board" in self.__dict__:
            self._board.close()
