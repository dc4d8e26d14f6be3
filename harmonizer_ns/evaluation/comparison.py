# SPDX-License-Identifier: Apache-2.0
"""Rows of trainings are compared with a plain one seed by seed.

Differences between seeds are often larger than those between rows, so a mean alone says little: every figure comes with
its spread, and with the number of seeds that are better or worse than the plain row's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from harmonizer_ns import __version__
from harmonizer_ns.captures.capture import load_capture
from harmonizer_ns.evaluation.jobs import Image, Job, make_job, read_result
from harmonizer_ns.evaluation.prepared import PreparedScene, folder_of
from harmonizer_ns.evaluation.protocols import Protocol, Run
from harmonizer_ns.evaluation.quality import MEASURES, Better, Measure, goodness, means
from harmonizer_ns.report import CameraMap, Cell, Report, Table, View, heading

Tried = tuple[Run, int, PreparedScene]
"""A length of training, a seed, and a scene."""
PLAIN = "plain"
"""The row that all others are compared with."""
Values = dict[int, float]
"""One value for each seed."""
Found = dict[tuple[int, str, str, str], Values]
"""By steps, scene, row and measure."""


@dataclass(frozen=True)
class Trial:
    """Is one row of a scene with one seed, and the job that gives it; rows may share jobs."""

    scene: str
    run: Run
    row: str
    image: Image
    seed: int
    job: Job


def planned(
    images: Mapping[str, Image], protocol: Protocol, tried: Tried, options: Sequence[str], device: str, **special: Any
) -> list[Trial]:
    """Plan one training for some rows, each with the image that it judges; see `make_job`."""
    run, seed, scene = tried
    label = f"{scene.name}, {run.steps} steps, seed {seed}, {next(iter(images))}"
    job = make_job(scene, protocol, run, seed, options, device, label=label, **special)
    return [Trial(scene.name, run, row, image, seed, job) for row, image in images.items()]


class Judgement(NamedTuple):
    """Holds what seeds say of a row: mean, spread (None with one seed), and how many are better or worse than plain."""

    mean: float
    spread: float | None
    better: int
    worse: int


def judge(values: Values, plain: Values, better: Better) -> Judgement:
    """Compare a row with the plain one, seed by seed; ties count on neither side.

    Args:
        values: of the row, at least one.
        plain: of the plain row; seeds that only one of both has are not compared.
        better: which values are.
    """
    differences = gains(values, plain, better)
    spread = stdev(values.values()) if len(values) > 1 else None
    ahead, behind = (sum(sign * gain > 0 for gain in differences) for sign in (1, -1))
    return Judgement(fmean(values.values()), spread, ahead, behind)


def gains(values: Values, plain: Values, better: Better) -> list[float]:
    """Say how much better a row is, for each seed that both have; negative where it is worse."""
    return [goodness(values[seed], better) - goodness(plain[seed], better) for seed in values if seed in plain]


def averages(views: Sequence[dict[str, Any]], image: Image) -> dict[str, float]:
    """Average the measures that every view has of an image; none when the image is missing for some."""
    found = means([view.get(image, {}) for view in views], all_of_them=True)
    return {name: value for name, value in found.items() if value is not None}


def collect(trials: Iterable[Trial], output: Path) -> Found:
    """Average every measure over the judged views of each trial that is finished."""
    found: Found = {}
    for trial in trials:
        result = read_result(trial.job, output)
        for name, value in ({} if result is None else averages(result["views"], trial.image)).items():
            found.setdefault((trial.run.steps, trial.scene, trial.row, name), {})[trial.seed] = value
    return found


def tables(found: Found, run: Run, rows: Sequence[str], scenes: Sequence[str]) -> list[Table]:
    """Make a table of each measure that was taken."""
    taken = {measure for steps, _, _, measure in found if steps == run.steps}
    named = (MEASURES[name] for name in MEASURES if name in taken and name != "good_half_change")
    return [_table(found, run, measure, rows, scenes) for measure in named]


def _table(found: Found, run: Run, measure: Measure, rows: Sequence[str], scenes: Sequence[str]) -> Table:
    """Make one with a line for each row, a column for each scene, and what the row gains over all of them."""
    mean = f"{measure.title}, nearest to 1" if measure.better == "one" else heading(measure.title, measure.better)
    seeds = f"mean over {len(run.seeds)} seeds ± standard deviation" if len(run.seeds) > 1 else "one seed"
    return Table(
        f"{measure.title} after {run.steps:,} steps",
        ("", *scenes, mean, "gain over plain", "better / worse"),
        tuple((row, *_cells(found, run, measure, row, scenes)) for row in rows),
        f"{measure.title}{f' ({measure.unit})' if measure.unit else ''} of the judged photos, {seeds}; "
        "in brackets the seeds that are better (+) and worse (-) than plain. Averages are over scenes with figures.",
    )


def _cells(found: Found, run: Run, measure: Measure, row: str, scenes: Sequence[str]) -> list[Cell]:
    tried = len({place for steps, place, _, name in found if (steps, name) == (run.steps, measure.name)})
    cells: list[Cell] = []
    means, differences, pairs = [], [], []
    for scene in scenes:
        values, plain = (found.get((run.steps, scene, name, measure.name), {}) for name in (row, PLAIN))
        cells.append(_told(judge(values, plain, measure.better), measure, row) if values else None)
        means += [fmean(values.values())] if values else []
        pairs += gains(values, plain, measure.better)
        differences += [fmean(pairs[-len(values) :])] if values and values.keys() <= plain.keys() else []
    whole = len(means) == tried
    gain = fmean(differences) if row != PLAIN and len(differences) == tried else None
    signs = None if row == PLAIN else f"{sum(one > 0 for one in pairs)} / {sum(one < 0 for one in pairs)}"
    return [*cells, fmean(means) if whole else None, gain, signs]


def _told(one: Judgement, measure: Measure, row: str) -> str:
    spread = "" if one.spread is None else f" ± {one.spread:.{measure.digits}f}"
    paired = "" if row == PLAIN else f" (+{one.better} -{one.worse})"
    return f"{one.mean:.{measure.digits}f}{spread}{paired}"


def flat(found: Found) -> list[dict[str, Any]]:
    """List all figures as JSON can hold them."""
    rows = []
    for (steps, scene, row, measure), values in found.items():
        judgement = judge(values, found.get((steps, scene, PLAIN, measure), {}), MEASURES[measure].better)
        about = {"steps": steps, "scene": scene, "row": row, "measure": measure}
        rows.append({**about, "seeds": {str(seed): value for seed, value in values.items()}, **judgement._asdict()})
    return rows


def comparison(
    title: str,
    protocol: Protocol,
    scenes: Sequence[PreparedScene],
    trials: Sequence[Trial],
    output: Path,
    problems: Sequence[str],
    sentence: Callable[[Found, Run, Sequence[str]], str],
    tables: Callable[[Found, Run, Sequence[str], Sequence[str]], list[Table]],
    views: Sequence[View] = (),
) -> Report:
    """Report what trainings by a protocol gave, what could not be done, and what they were given.

    For each length of training there is a sentence, and tables by rows and scenes.
    """
    found, names = collect(trials, output), [scene.name for scene in scenes]
    rows = {run: list(dict.fromkeys(trial.row for trial in trials if trial.run == run)) for run in protocol.runs}
    failed = [f"Not done: {'; '.join(problems)}."] if problems else []
    return Report(
        f"{title}: {', '.join(names)}",
        (*(sentence(found, run, names) for run in rows), *failed, *map(str, scenes)),
        tuple(table for run in rows for table in tables(found, run, rows[run], names)),
        views=tuple(views),
        ranked_by="PSNR gained from plain to harmonized",
        maps={name: CameraMap(load_capture(folder_of(output, name)).positions) for name in names},
        settings={"protocol": protocol.settings(), "version": __version__},
        data={"values": flat(found)},
    )
