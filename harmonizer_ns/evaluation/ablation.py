# SPDX-License-Identifier: Apache-2.0
"""An ablation trains the same scenes with parts of the method on and off, and says what each is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation.comparison import PLAIN, Found, Trial, comparison, gains, planned, tables
from harmonizer_ns.evaluation.jobs import NO_REPAIRS, Image, Job, pictures_of, read_result
from harmonizer_ns.evaluation.prepared import PreparedScene
from harmonizer_ns.evaluation.protocols import Protocol, Run
from harmonizer_ns.files import read_json
from harmonizer_ns.report import Report, View, heading

POST_RENDER, PROGRESSIVE = "post-render", "progressive"
WHOLE = f"{PROGRESSIVE} + {POST_RENDER}"
DENSE = "dense seeds"
THINNED = f"{DENSE}, thinned"
SEEDS, THINNING = ("--seeds", "auto"), ("--opacity_reg", "None")
"""Flags of the method's own; without, splats begin at the capture's points, and opacity costs nothing."""
METHOD = (*SEEDS, *THINNING)
PARTS: dict[str, tuple[str, ...]] = {
    "no gate": (
        *("--gate.unseen_weight", "1", "--gate.contradicted_weight", "1"),
        *("--gate.alpha_low", "0", "--gate.alpha_high", "1e-6"),
    ),
    "no references": ("--num_references", "0"),
    "no fade": (
        *("--trust", "lasting", "--photo_share", "0.65"),
        *("--gate.unseen_weight", "0.2", "--gate.contradicted_weight", "0"),
    ),
    "no small steps": ("--step_fraction", "1e6"),
    "no geometry": ("--seeds", "capture"),
    "no thinning": ("--opacity_reg", "0"),
}
"""What turns one part of the method off: the gate (all pixels count), photos (for the enhancer and the gate), the
fading of trust, the way to the targets (cameras are there at once), what photos give by being compared, and the price
of opacity."""
SHOWN_VIEWS = 3
"""So many views of a scene, the worst, are shown with their pictures."""


@dataclass(frozen=True)
class Row:
    """Is one line of the table.

    Args:
        name: of the line.
        options: flags of gsplat_trainer; rows with the same ones share their trainings.
        image: which of its images is judged.
    """

    name: str
    options: tuple[str, ...]
    image: Image = "rgb"


def rows_of(run: Run, own: Mapping[str, Sequence[str]]) -> list[Row]:
    """List what is tried with one length of training: the shipped rows, then each of the user's with both images.

    Raises:
        InputError: when one of the user's has the name of another row.
    """
    shipped = [
        Row(PLAIN, NO_REPAIRS),
        Row(POST_RENDER, NO_REPAIRS, "enhanced"),
        Row(DENSE, (*NO_REPAIRS, *SEEDS)),
        Row(THINNED, (*NO_REPAIRS, *METHOD)),
        Row("one-time", (*METHOD, "--fix_steps", str(max(1, run.steps // 2)))),
        Row(PROGRESSIVE, METHOD),
        Row(WHOLE, METHOD, "enhanced"),
        *(Row(name, (*METHOD, *options)) for name, options in PARTS.items()),
    ]
    if taken := sorted({row.name for row in shipped} & set(own)):
        raise InputError(f"there is a row {taken[0]!r} already; give your options another name")
    rendered = [Row(name, (*METHOD, *flags)) for name, flags in own.items()]
    enhanced = [Row(f"{row.name} + {POST_RENDER}", row.options, "enhanced") for row in rendered]
    return [*shipped, *(row for pair in zip(rendered, enhanced, strict=True) for row in pair)]


def read_options(path: Path | None) -> dict[str, list[str]]:
    """Read option sets: a JSON object from names to lists of gsplat_trainer's flags.

    Raises:
        InputError: when it is something else.
    """
    content = {} if path is None else read_json(path)
    for name, flags in content.items():
        if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
            raise InputError(f'{path}: {name!r} should be a list of flags, such as ["--photo_share", "0.5"]')
    return content


def plan(
    protocol: Protocol, scenes: Sequence[PreparedScene], own: Mapping[str, Sequence[str]], device: str
) -> list[Trial]:
    """List all trials; those of a scene and seed come together, first seeds first."""
    trials = []
    for run, seed, scene in protocol.tried(scenes):
        for row in rows_of(run, own):
            shown = seed == run.seeds[0] and row.name in (PLAIN, PROGRESSIVE)
            images = {row.name: row.image}
            trials += planned(images, protocol, (run, seed, scene), row.options, device, with_pictures=shown)
    return trials


def report(
    protocol: Protocol, scenes: Sequence[PreparedScene], trials: Sequence[Trial], output: Path, problems: Sequence[str]
) -> Report:
    """Tell what every row is worth."""
    title, views = f"Ablation by the protocol {protocol.name}", _views(trials, output)
    return comparison(title, protocol, scenes, trials, output, problems, _sentence, tables, views)


def _sentence(found: Found, run: Run, scenes: Sequence[str]) -> str:
    """Say what the whole method is worth in PSNR."""
    values = [[found.get((run.steps, scene, row, "psnr"), {}) for row in (WHOLE, PLAIN)] for scene in scenes]
    pairs = [gain for row, plain in values for gain in gains(row, plain, "higher")]
    if not pairs:
        return f"After {run.steps:,} steps nothing can be compared yet."
    better, worse = sum(gain > 0 for gain in pairs), sum(gain < 0 for gain in pairs)
    return (
        f"After {run.steps:,} steps {WHOLE} gains {fmean(pairs):+.2f} dB over plain: "
        f"it is better in {better} and worse in {worse} of {len(pairs)} pairs of the same scene and seed."
    )


def _views(trials: Sequence[Trial], output: Path) -> list[View]:
    """Show the views of each scene where the method does worst against plain, after the first training."""
    first = [trial for trial in trials if (trial.run, trial.seed) == (trials[0].run, trials[0].seed)]
    jobs = {(trial.scene, trial.row): trial.job for trial in first}
    views = []
    for scene in dict.fromkeys(trial.scene for trial in first):
        pair = jobs[scene, PLAIN], jobs[scene, PROGRESSIVE]
        before, after = (read_result(job, output) for job in pair)
        if before is not None and after is not None:
            both = zip(before["views"], after["views"], strict=True)
            found = [_view(scene, pair, views_of, output) for views_of in both]
            views += sorted(found, key=lambda view: view.rank)[:SHOWN_VIEWS]
    return views


def _view(scene: str, jobs: tuple[Job, Job], rows: tuple[dict[str, Any], dict[str, Any]], output: Path) -> View:
    """Show one view of the plain training and of the method's."""
    (before, after), name = rows, rows[0]["name"]
    plain, method = (pictures_of(job, output, name) for job in jobs)
    pictures = {"plain": plain.get("rgb"), "harmonized": method.get("rgb"), "enhanced": method.get("enhanced")}
    values = {"plain": before["rgb"], "harmonized": after["rgb"], "enhanced": after.get("enhanced")}
    scores = {heading("PSNR", "higher", kind): row["psnr"] for kind, row in values.items() if row}
    pictures["truth"] = plain.get("truth")
    files: dict[str, Any] = {kind: path for kind, path in pictures.items() if path is not None}
    return View(f"{scene}: {name}", files, scores, after["rgb"]["psnr"] - before["rgb"]["psnr"])
