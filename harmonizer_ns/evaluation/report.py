# SPDX-License-Identifier: Apache-2.0
"""Results of the held-out protocol: averages, a table, a verdict, JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from harmonizer_ns.files import write_json

GOOD_HALF_TOLERANCE = 0.1
"""By how many dB the pixels that were already good may get worse."""


@dataclass(frozen=True)
class SceneResult:
    """Averages over the held-out views of one scene (dB, SSIM in [-1, 1], frames per second)."""

    scene: str
    views: int
    psnr_render: float
    psnr_enhanced: float
    ssim_render: float
    ssim_enhanced: float
    good_before: float
    good_after: float
    fps: float
    lpips_render: float | None = None
    lpips_enhanced: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether an enhancer helps without harm, averaged over scenes.

    Args:
        scenes: number of scenes.
        gain: PSNR gained over the plain render in dB.
        good_half_change: change of the good-half PSNR in dB.
    """

    scenes: int
    gain: float
    good_half_change: float

    @property
    def passed(self) -> bool:
        """Better on average, and good pixels lose at most `GOOD_HALF_TOLERANCE`."""
        return self.gain > 0 and self.good_half_change >= -GOOD_HALF_TOLERANCE


def average(results: list[SceneResult]) -> SceneResult:
    """Every number averaged over the scenes, each scene counting once; views are summed.

    Raises:
        ValueError: without results.
    """
    if not results:
        raise ValueError("no scenes to average over")
    means: dict[str, Any] = {}
    for column in fields(SceneResult):
        values = [getattr(result, column.name) for result in results]
        if column.name not in ("scene", "views"):
            means[column.name] = None if any(value is None for value in values) else fmean(values)
    return SceneResult(scene="average", views=sum(result.views for result in results), **means)


def judge(results: list[SceneResult]) -> Verdict:
    """The verdict over all scenes."""
    mean = average(results)
    return Verdict(len(results), mean.psnr_enhanced - mean.psnr_render, mean.good_after - mean.good_before)


def table(results: list[SceneResult], title: str) -> Table:
    """One row per scene and one for the average; ``a -> b`` is plain render and enhanced image."""
    shown = Table(title=title)
    mean = average(results)
    for name in _cells(mean):
        shown.add_column(name, justify="left" if name == "scene" else "right", no_wrap=True)
    for result in results:
        cells = _cells(result)
        shown.add_row(*(cells[name] for name in _cells(mean)))
    shown.add_section()
    shown.add_row(*_cells(mean).values())
    return shown


def _cells(row: SceneResult) -> dict[str, str]:
    """Column name -> text; without LPIPS where it was not measured."""
    cells = {
        "scene": row.scene,
        "views": str(row.views),
        "PSNR": f"{row.psnr_render:.2f} -> {row.psnr_enhanced:.2f}",
        "gain": f"{row.psnr_enhanced - row.psnr_render:+.2f}",
        "SSIM": f"{row.ssim_render:.3f} -> {row.ssim_enhanced:.3f}",
        "good-half PSNR": f"{row.good_before:.2f} -> {row.good_after:.2f}",
        "change": f"{row.good_after - row.good_before:+.2f}",
        "fps": f"{row.fps:.1f}",
    }
    if row.lpips_render is not None and row.lpips_enhanced is not None:
        cells["LPIPS"] = f"{row.lpips_render:.3f} -> {row.lpips_enhanced:.3f}"
    return cells


def sentence(verdict: Verdict) -> str:
    """The verdict in words."""
    return (
        f"{'PASS' if verdict.passed else 'FAIL'}: {verdict.gain:+.2f} dB over the plain render and "
        f"{verdict.good_half_change:+.2f} dB on the pixels that were already good "
        f"(allowed: {-GOOD_HALF_TOLERANCE:+.1f}), averaged over {verdict.scenes} scene{'s' * (verdict.scenes != 1)}"
    )


def write_report(path: Path, results: list[SceneResult], protocol: dict[str, Any]) -> None:
    """Write the results, their average, the verdict and the settings they were made with.

    Raises:
        InputError: when the file cannot be written.
    """
    verdict = judge(results)
    content = {
        "protocol": protocol,
        "scenes": [asdict(result) for result in results],
        "average": asdict(average(results)),
        "verdict": {**asdict(verdict), "passed": verdict.passed},
    }
    write_json(path, content, indent=2)


def wide_console() -> Console:
    """A console whose tables keep their cells whole, also in a log file, which has 80 columns."""
    console = Console()
    console.width = max(console.width, 110)
    return console
