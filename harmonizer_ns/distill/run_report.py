# SPDX-License-Identifier: Apache-2.0
"""A training run reports what became of it: held-out photos, curves, rounds of repairs, and what it was made with."""

from __future__ import annotations

import math
import traceback
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from harmonizer_ns.distill.curves import Curves, Points
from harmonizer_ns.distill.held_out import METRICS, HeldOutPhoto, HeldOutPhotos, Scores, by_image
from harmonizer_ns.distill.origin import Origin, provenance
from harmonizer_ns.distill.repairs import Repairs
from harmonizer_ns.distill.rounds import RoundReport
from harmonizer_ns.distill.store import PseudoViewStore
from harmonizer_ns.errors import InputError, first_line
from harmonizer_ns.images import shrunk, to_float
from harmonizer_ns.progress import duration
from harmonizer_ns.report import CameraMap, Plot, Report, Table, View, heading, write_report
from harmonizer_ns.spread import evenly_spread
from harmonizer_ns.views import ENHANCED, PLAIN, TRUTH

_TARGETS, _SIDE = 8, 512
"""Targets of the last round that are shown, and the longer side of their pictures in pixels."""
NOTHING_MEASURED = "No photo was held out, so nothing was measured."
_PLOTS = {
    "loss": ("Loss", "mean of the steps between two points"),
    "splats": ("Gaussians", "number"),
    "psnr": ("Held-out photos", "PSNR in dB"),
    "round": ("Rounds of repairs", "share"),
}
WEIGHT, WAY, USED = "round/mean weight", "round/way to the targets", "round/views used"
"""Curves of the rounds, from 0 to 1."""


@dataclass(frozen=True)
class Trained:
    """Holds what became of a scene.

    Args:
        metrics: averages over the held-out photos, by the names that `by_image` knows.
        photos: one by one.
        curves: over training.
        seconds: of training.
    """

    metrics: Mapping[str, float]
    photos: HeldOutPhotos
    curves: Curves
    seconds: float = 0.0


def write_run_report(folder: Path, make: Callable[[], Report], say: Callable[[str], None], opens: bool = False) -> None:
    """Write the report of a run that is finished and saved, and say what it tells and where it is.

    Whatever is wrong with it is said, and loses nothing.

    Args:
        folder: of the run.
        make: gives the report.
        say: told lines.
        opens: show its page in the browser.
    """
    try:
        page = write_report(folder, report := make())
        say("\n".join([*report.summary, f"Report: {page}"]))
        if opens and not webbrowser.open(page.resolve().as_uri()):
            say("No browser was found to open it.")
    except InputError as error:
        say(f"There is no report: {error}")
    except Exception as error:
        say(f"There is no report, which is a defect: {first_line(error)}\n{traceback.format_exc()}")


def mark_quality(curves: Curves, step: int, metrics: Mapping[str, float]) -> None:
    """Keep the PSNR of both images at a step."""
    psnr = {name: scores["psnr"] for name, scores in by_image(metrics).items() if "psnr" in scores}
    curves.mark(step, {"psnr/" + ("" if name == PLAIN else name): value for name, value in psnr.items()})


def mark_round(curves: Curves, report: RoundReport) -> None:
    """Keep what a round did."""
    used = len(report.used) / max(1, len(report.views))
    curves.mark(report.step, {WEIGHT: report.mean_weight, WAY: report.position, USED: used})


def run_report(
    title: str, run: Trained, repairs: Repairs, origin: Origin, plain: Trained | None = None, before: str = "plain"
) -> Report:
    """Report a run.

    Args:
        title: names the command and the scene.
        run: what became of it.
        repairs: of the run.
        origin: where it came from.
        plain: what it is compared with.
        before: what that is called.
    """
    name = "harmonized" if plain or repairs.summary()["rounds"] else "rendered"
    images = {name: (run, PLAIN), ENHANCED: (run, ENHANCED)}
    if plain is not None:
        images = {before: (plain, PLAIN), **images}
    averages = {image: scores for image, (of, kind) in images.items() if (scores := by_image(of.metrics).get(kind))}
    photos = [_compared(photo, images) for photo in run.photos.photos]
    last = _last_round(repairs.store)
    return Report(
        title=title,
        summary=tuple(_sentences(averages, photos, run, repairs, plain)),
        tables=(_averages(averages, len(photos)), *_rounds(run.curves)),
        plots=tuple(_plots({name: run.curves, **({before: plain.curves} if plain else {})})),
        views=tuple(_view(photo, by_change=plain is not None) for photo in photos),
        galleries={"The last round of repairs": last} if last else {},
        ranked_by="PSNR gained from the first image to the last" if plain else "PSNR",
        cameras=_cameras(origin, repairs),
        settings=provenance(origin, repairs.settings.enhancer),
        data={"averages": averages, "repairs": repairs.summary(), "curves": run.curves.points},
    )


def _compared(name: str, images: dict[str, tuple[Trained, str]]) -> HeldOutPhoto:
    """A photo's images, of which a run that failed on it, or kept no pictures, has fewer."""
    scores, pictures, truth = {}, {}, {}
    for image, (run, kind) in images.items():
        if (found := run.photos.photos.get(name)) is None:
            continue
        scores |= {image: found.scores[kind]} if kind in found.scores else {}
        pictures |= {image: found.pictures[kind]} if kind in found.pictures else {}
        truth |= {TRUTH: found.pictures[TRUTH]} if found.pictures else {}
    return HeldOutPhoto(name, scores, {**pictures, **truth})


# --- in words ---------------------------------------------------------------------------------------------------------


def _sentences(
    averages: Scores, photos: list[HeldOutPhoto], run: Trained, repairs: Repairs, plain: Trained | None
) -> list[str]:
    told, summary = [_headline(averages, len(photos)), *_changes(photos)], repairs.summary()
    failed = sum(ENHANCED not in photo.scores for photo in photos)
    if summary["enhancer"] != "none" and failed:
        told.append(f"The enhancer failed on {failed} of {len(photos)} held-out photos: its image has no averages.")
    if summary["rounds"]:
        told.append(f"{summary['rounds']} rounds of repairs; targets: {summary['targets']}.")
    if summary["failed_rounds"]:
        told.append(f"The enhancer failed in {summary['failed_rounds']} rounds of repairs.")
    if run.seconds:
        against = f", the plain one {duration(plain.seconds)}" if plain and plain.seconds else ""
        told.append(f"Training took {duration(run.seconds)}{against}.")
    return told


def _headline(averages: Scores, photos: int) -> str:
    values = {image: scores["psnr"] for image, scores in averages.items() if "psnr" in scores}
    if not values:
        return NOTHING_MEASURED
    (first, start), *others = values.items()
    told = [f"{value:.2f} dB {image} ({value - start:+.2f})" for image, value in others]
    return f"PSNR on {photos} held-out photo{'s' * (photos != 1)}: {', '.join([f'{start:.2f} dB {first}', *told])}."


def _changes(photos: list[HeldOutPhoto]) -> list[str]:
    """How single photos changed from the first image to the last, where they have all images."""
    images = max((list(photo.scores) for photo in photos), key=len, default=[])
    changed = [photo for photo in photos if list(photo.scores) == images and math.isfinite(photo.change)]
    if not changed:
        return []
    worst, best = min(changed, key=lambda photo: photo.change), max(changed, key=lambda photo: photo.change)
    better = sum(photo.change > 0 for photo in changed)
    span = f"{worst.change:+.2f} dB ({worst.name}) to {best.change:+.2f} dB ({best.name})"
    return [f"From {images[0]} to {images[-1]}, {better} of {len(changed)} photos got better: {span}."]


# --- in figures and pictures ------------------------------------------------------------------------------------------


def _averages(averages: Scores, photos: int) -> Table:
    """A row for each image; what it gained over the first one."""
    names = [name for name in METRICS if any(name in scores for scores in averages.values())]
    start = next((scores["psnr"] for scores in averages.values() if "psnr" in scores), None)
    rows = []
    for image, scores in averages.items():
        gain = None if start is None or not rows or "psnr" not in scores else scores["psnr"] - start
        rows.append((image, *(scores.get(name) for name in names), gain))
    columns = ("image", *(heading(*METRICS[name]) for name in names), heading("gain in PSNR", "higher"))
    return Table("Held-out photos", columns, tuple(rows), f"Averages over {photos} photos that were not learned from.")


def _rounds(curves: Curves) -> list[Table]:
    found = [dict(curves.points.get(name, [])) for name in (WAY, USED, WEIGHT)]
    rows = tuple((f"{step}", *(f"{values[step]:.0%}" for values in found)) for step in sorted(found[0]))
    columns = ("training step", "way to the targets", "views used", "mean weight")
    return [Table("Rounds of repairs", columns, rows)] if rows else []


def _plots(runs: dict[str, Curves]) -> list[Plot]:
    plots = []
    for name, (title, unit) in _PLOTS.items():
        series: dict[str, Points] = {}
        for run, curves in runs.items():
            found = {f"{run}: {curve}" if curve else run: points for curve, points in curves.plot(name).items()}
            series |= {curve: points for curve, points in found.items() if any(value for _, value in points)}
        if name == "round":
            series = {curve.partition(": ")[2]: points for curve, points in series.items()}
        if any(len(points) > 1 for points in series.values()):
            plots.append(Plot(title, "training step", unit, {curve: tuple(p) for curve, p in series.items()}))
    return plots


def _view(photo: HeldOutPhoto, by_change: bool) -> View:
    """A photo for the page, ranked by how it changed, or by how good it is."""
    scores = {
        heading(*METRICS[metric], image): values[metric]
        for metric in METRICS
        for image, values in photo.scores.items()
        if metric in values
    }
    rank = photo.change if by_change else next(iter(photo.quality), math.nan)
    return View(photo.name, photo.pictures, scores, rank)


def _last_round(store: PseudoViewStore) -> tuple[View, ...]:
    """Targets as they were repaired last, and how far each pixel is trusted."""
    last = max((view.step for view in store.stored), default=0)
    views = []
    for stored in evenly_spread([view for view in store.stored if view.step == last], _TARGETS):
        images = {"render": stored.render, "repaired": stored.rgb, "pixel weight": stored.weight}
        pictures = {name: shrunk(to_float(image), _SIDE) for name, image in images.items()}
        views.append(View(f"target {stored.target}, step {last}", pictures, {"mean weight": stored.confidence}, 0.0))
    return tuple(views)


def _cameras(origin: Origin, repairs: Repairs) -> CameraMap:
    targets = [] if repairs.schedule is None else [approach.target for approach in repairs.schedule.approaches]
    groups = {"photos": origin.photos, "held-out": origin.held_out, "targets": targets}
    if repairs.settings.targets == "path":
        groups["path"] = targets
    return CameraMap({name: torch.cat([c.centers.cpu() for c in some]) for name, some in groups.items() if some})
