# SPDX-License-Identifier: Apache-2.0
"""A run shows a table at its end, and pictures of every round of repairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from rich.table import Table

from harmonizer_ns.distill.rounds import RoundReport
from harmonizer_ns.files import write_json
from harmonizer_ns.images import save_image

METRICS = ("psnr", "ssim", "lpips")
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
    rows = {"harmonize: rgb": _of(metrics, ""), "harmonize: rgb_enhanced": _of(metrics, "_enhanced")}
    if baseline is not None:
        rows["plain baseline: rgb"] = _of(baseline, "")
    rows = {name: row for name, row in rows.items() if row}
    write_json(file, {"held_out": rows, "summary": summary}, indent=2)
    CONSOLE.print(_table(rows))
    CONSOLE.print(f"Targets: {summary['targets']}. Pseudo-views kept: {summary['pseudo_views']}. Report: {file}")
    if summary.get("failed_rounds"):
        CONSOLE.print(f"The enhancer failed in {summary['failed_rounds']} rounds of repairs")


def _of(metrics: dict[str, float], suffix: str) -> dict[str, float]:
    return {name: metrics[name + suffix] for name in METRICS if name + suffix in metrics}


def _table(rows: dict[str, dict[str, float]]) -> Table:
    table = Table(title="Held-out photos (averages)")
    table.add_column("image")
    names = [name for name in METRICS if any(name in row for row in rows.values())]
    for name in names:
        table.add_column(name.upper() + (" ↓" if name == "lpips" else " ↑"), justify="right")
    for title, row in rows.items():
        table.add_row(title, *(f"{row[name]:.3f}" if name in row else "-" for name in names))
    return table
