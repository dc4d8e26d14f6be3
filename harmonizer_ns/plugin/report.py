# SPDX-License-Identifier: Apache-2.0
"""A run shows a table at its end, and pictures of every round of repairs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nerfstudio.utils import comms, writer
from nerfstudio.utils.rich_utils import CONSOLE
from rich.table import Table

from harmonizer_ns.distill.held_out import METRICS, by_image
from harmonizer_ns.distill.origin import Origin
from harmonizer_ns.distill.rounds import RoundReport
from harmonizer_ns.distill.run_report import NOTHING_MEASURED, Trained, run_report, write_run_report
from harmonizer_ns.files import file_digest, write_json
from harmonizer_ns.images import save_image
from harmonizer_ns.report import Report
from harmonizer_ns.views import ENHANCED, PLAIN

_SIDE = 256
"""Longer side of each picture in tensorboard, in pixels."""


def log_round(report: RoundReport, folder: Path) -> None:
    """Say what a round did; pictures of every target go to tensorboard and, at full size, into ``folder``."""
    for line in report.lines():
        CONSOLE.log(line)
    if report.failure is not None:
        return
    writer.put_scalar("Harmonize/mean_weight", report.mean_weight, report.step)
    writer.put_scalar("Harmonize/position", report.position, report.step)
    for view in report.views:
        if view.images:
            name = f"{view.target:03d}"
            writer.put_image(f"Harmonize/target_{name}", view.strip(report.step, _SIDE).permute(1, 2, 0), report.step)
            save_image(folder / f"step-{report.step:06d}_target-{name}.jpg", view.strip(report.step))


def write_reports(folder: Path, config: Any, pipeline: Any, trained: Trained, plain: Trained | None) -> None:
    """Print the table of a finished run, and write it as JSON and as a report.

    Args:
        folder: of the run.
        config: of its trainer.
        pipeline: what it trained.
        trained: what became of it.
        plain: what became of the plain method, or None.
    """
    if not comms.is_main_process():
        return
    repairs, photos, data = pipeline.repairs, pipeline.photos, pipeline.datamanager
    baseline = None if plain is None else dict(plain.metrics)
    print_report(folder / "harmonize_report.json", dict(trained.metrics), baseline, repairs.summary())
    settings = json.loads(json.dumps(asdict(config), default=str))
    capture = data.config.data or data.config.dataparser.data
    title = f"{config.method_name} on {config.experiment_name}, {config.max_num_iterations} steps"

    def make() -> Report:
        content = [file_digest(file) for split in (data.train_dataset, data.eval_dataset) for file in _files(split)]
        origin = Origin(capture, photos.cameras, photos.held_out, photos.points, content, settings)
        return run_report(title, trained, repairs, origin, plain)

    write_run_report(folder, make, say, opens=config.open_report)


def _files(split: Any) -> list[Path]:
    """Photos of a dataset, which may be None, and their masks."""
    return [] if not split else [*split.image_filenames, *(split._dataparser_outputs.mask_filenames or ())]


def say(message: str) -> None:
    """Print a line as it is."""
    CONSOLE.print(message, markup=False, highlight=False, soft_wrap=True)


def print_report(
    file: Path, metrics: dict[str, float], baseline: dict[str, float] | None, summary: dict[str, Any]
) -> None:
    """Print held-out metrics as one table and save them as JSON.

    Args:
        file: where the JSON goes.
        metrics: averages over the held-out photos; names ending in ``_enhanced`` belong to ``rgb_enhanced``.
        baseline: the same of the plain method, or None.
        summary: how the pseudo-views were made.
    """
    scores = by_image(metrics)
    rows = {"harmonize: rgb": scores.get(PLAIN), "harmonize: rgb_enhanced": scores.get(ENHANCED)}
    if baseline is not None:
        rows["plain baseline: rgb"] = by_image(baseline).get(PLAIN)
    rows = {name: row for name, row in rows.items() if row}
    write_json(file, {"held_out": rows, "summary": summary}, indent=2)
    CONSOLE.print(_table(rows) if rows else NOTHING_MEASURED)
    CONSOLE.print(f"Targets: {summary['targets']}. Pseudo-views kept: {summary['pseudo_views']}. Averages: {file}")
    if summary.get("failed_rounds"):
        CONSOLE.print(f"The enhancer failed in {summary['failed_rounds']} rounds of repairs")


def _table(rows: dict[str, dict[str, float]]) -> Table:
    table = Table(title="Held-out photos (averages)")
    table.add_column("image")
    names = [name for name in METRICS if any(name in row for row in rows.values())]
    for name in names:
        table.add_column(name.upper() + (" ↓" if name == "lpips" else " ↑"), justify="right")
    for title, row in rows.items():
        table.add_row(title, *(f"{row[name]:.3f}" if name in row else "-" for name in names))
    return table
