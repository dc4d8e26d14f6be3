# SPDX-License-Identifier: Apache-2.0
"""What was measured becomes a report: one page with the pictures, JSON and Markdown beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harmonizer_ns import __version__
from harmonizer_ns.evaluation.networks import Networks
from harmonizer_ns.evaluation.quality import MEASURES, Measure, goodness
from harmonizer_ns.evaluation.report import SceneResult, ViewResult, measured, told
from harmonizer_ns.evaluation.settings import EvaluationConfig
from harmonizer_ns.files import read_json, write_json
from harmonizer_ns.report import CameraMap, Report, Table, View, heading, write_report
from harmonizer_ns.views import ENHANCED, PLAIN, TRUTH


def headed(measure: Measure, of: str = "") -> str:
    """Head a column or a score with a measure."""
    return heading(measure.title, measure.better, of)


def gains_table(mean: SceneResult) -> Table:
    """Show what was gained: one row for each measure, of the average over all scenes."""
    roles = [role for role in (PLAIN, ENHANCED, TRUTH) if role in mean.scores]
    gains = ["gain"] if ENHANCED in roles else []
    rows = []
    for measure in measured([mean]):
        gain = [None if measure.better == "one" else mean.gain(measure.name)] if gains else []
        rows.append((headed(measure), *(mean.score(measure.name, role) for role in roles), *gain))
    return Table(f"Average over {mean.views} views", ("measure", *roles, *gains), tuple(rows))


def scenes_table(results: Sequence[SceneResult]) -> Table | None:
    """Show every scene: one row each, a column for each measure of each picture; None of a single one."""
    if len(results) < 2:
        return None
    roles = [role for role in (PLAIN, ENHANCED, TRUTH) if any(role in result.scores for result in results)]
    shown = [
        (measure, role)
        for measure in measured(results)
        for role in roles
        if any(result.score(measure.name, role) is not None for result in results)
    ]
    columns = ("scene", "views", *(headed(measure, role) for measure, role in shown))
    rows = ((r.scene, str(r.views), *(r.score(measure.name, role) for measure, role in shown)) for r in results)
    return Table("By scene", columns, tuple(rows))


def missing_table(missing: Mapping[str, str]) -> Table | None:
    """Show which measures could not be taken, and why; None when all were."""
    names = {"inception": "FID, KID"} | {name: measure.title for name, measure in MEASURES.items()}
    rows = tuple((names[name], why) for name, why in missing.items())
    return Table("Not measured", ("measure", "why"), rows) if rows else None


def view_of(scene: str, view: ViewResult, folder: Path) -> View:
    """Show one view; those that lost most come first, or those that are worst where nothing was enhanced.

    Args:
        scene: its name.
        view: what it scored.
        folder: of the scene's pictures, see `picture_file`.
    """
    scores: dict[str, float | None] = {
        headed(MEASURES[name], role): value
        for role, row in view.scores.items()
        for name, value in row.items()
        if value is not None and name != "good_half_change"
    }
    plain, enhanced = (view.scores.get(role, {}).get("psnr") or 0.0 for role in (PLAIN, ENHANCED))
    rank = enhanced - plain if ENHANCED in view.scores else plain
    pictures: dict[str, Any] = {role: picture_file(folder, role, view.name) for role in (*view.scores, TRUTH)}
    return View(f"{scene}: {view.name} {view.shows}", pictures, scores, rank)


def views_of(output: Path, results: Sequence[SceneResult]) -> tuple[View, ...]:
    """Show every view of the scenes, whose pictures lie in a folder."""
    return tuple(
        view_of(result.scene, view, folder)
        for result in results
        if (folder := scene_folder(output, result.scene))
        for view in result.each
    )


def report_of(
    what: str,
    results: Sequence[SceneResult],
    mean: SceneResult,
    config: EvaluationConfig,
    networks: Networks,
    sentences: Sequence[str] = (),
) -> Report:
    """Report what was measured, but for the raw figures."""
    assert config.output is not None
    tables = [gains_table(mean), scenes_table(results), missing_table(networks.missing)]
    maps = {result.scene: CameraMap(result.positions) for result in results if result.positions}
    return Report(
        title=f"{what} {', '.join(result.scene for result in results)}",
        summary=(headline(mean), *sentences, told(results)),
        tables=tuple(table for table in tables if table is not None),
        views=views_of(config.output, results),
        ranked_by="PSNR gained by enhancing" if ENHANCED in mean.scores else "PSNR",
        cameras=maps.get(results[0].scene) if len(results) == 1 else None,
        maps=maps if len(results) > 1 else {},
        settings={"protocol": config.settings(), "networks": dict(networks.recipes), "version": __version__},
    )


def scene_folder(output: Path | None, scene: str) -> Path | None:
    """Say where the pictures of a scene go."""
    return None if output is None else output / re.sub(r"[^\w.-]+", "_", scene).strip("._")


def picture_file(folder: Path, role: str, view: str) -> Path:
    """Say where the picture of a role lies in a scene's folder."""
    return folder / role / f"{view}.png"


def headline(mean: SceneResult) -> str:
    """Say what got better and what got worse."""
    if ENHANCED not in mean.scores:
        told = [f"{m.title} {mean.score(m.name):.{m.digits}f}" for m in measured([mean]) if mean.score(m.name)]
        return f"{mean.views} views: {', '.join(told)}."
    parts: dict[str, list[str]] = {"better": [], "worse": []}
    for measure in measured([mean]):
        change = _improvement(mean, measure)
        if change is not None and change != 0:
            before, after = mean.score(measure.name) or 0.0, mean.score(measure.name, ENHANCED) or 0.0
            told = f"{measure.title} {before:.{measure.digits}f} to {after:.{measure.digits}f}"
            parts["better" if change > 0 else "worse"].append(told)
    told = [f"{word}: {', '.join(found)}" for word, found in parts.items() if found]
    return f"Enhanced against plain over {mean.views} views, " + ("; ".join(told) or "nothing changed") + "."


def _improvement(mean: SceneResult, measure: Measure) -> float | None:
    plain, enhanced = mean.score(measure.name), mean.score(measure.name, ENHANCED)
    if plain is None or enhanced is None:
        return None
    floor = mean.score(measure.name, TRUTH)
    if floor is not None and measure.better == "lower":  # below the truth's own error a video is smoother, not better
        plain, enhanced = max(plain, floor), max(enhanced, floor)
    return goodness(enhanced, measure.better) - goodness(plain, measure.better)


def write(folder: Path, report: Report) -> Path:
    """Write a report; in its JSON the raw figures stand at the top, where scripts look for them.

    Returns:
        the path of the page.
    """
    page = write_report(folder, Report(**{**vars(report), "data": {}}))
    file = folder / "report.json"
    write_json(file, {**read_json(file), **report.data}, indent=2)
    return page
