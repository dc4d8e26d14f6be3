# SPDX-License-Identifier: Apache-2.0
"""The training loop is tested by itself: what does it make of repairs of a stated quality?

Enhancers that know the truth repair the judged photos' views. What the loop gains from them is compared with what
training on these photos themselves gains: ``efficiency = (loop - plain) / (photos - plain)`` in PSNR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation.comparison import PLAIN, Found, Trial, Values, comparison, planned
from harmonizer_ns.evaluation.jobs import NO_REPAIRS, Image
from harmonizer_ns.evaluation.oracles import FLAWS
from harmonizer_ns.evaluation.prepared import PreparedScene
from harmonizer_ns.evaluation.protocols import Protocol, Run
from harmonizer_ns.report import Cell, Report, Spread, Table, heading

PHOTOS = "trained on the judged photos too"
REPAIR = "the repair itself: "
"""Begins the names of rows that judge repairs."""


def loop_rows(own: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """List what is tried with repairs: for each name the flaw, and flags of gsplat_trainer; first without any."""
    rows = {flaw: (flaw, ()) for flaw in FLAWS}
    return rows | {f"{flaw}, {name}": (flaw, tuple(flags)) for name, flags in own.items() for flaw in FLAWS}


def plan_loop(
    protocol: Protocol, scenes: Sequence[PreparedScene], own: Mapping[str, Sequence[str]], device: str
) -> list[Trial]:
    """List all trials; those of a scene and seed come together, first seeds first.

    Raises:
        InputError: when repairs would be made elsewhere than where the truth is known.
    """
    if protocol.targets != "eval":
        raise InputError(f"the loop's test needs targets 'eval', the protocol {protocol.name} has {protocol.targets!r}")
    rows = {PLAIN: (NO_REPAIRS, {}), PHOTOS: (NO_REPAIRS, {"photos": "all"})}
    rows |= {row: (options, {"flaw": flaw}) for row, (flaw, options) in loop_rows(own).items()}
    trials = []
    for tried in protocol.tried(scenes):
        for row, (options, special) in rows.items():
            images: dict[str, Image] = {row: "rgb", **({REPAIR + row: "enhanced"} if "flaw" in special else {})}
            trials += planned(images, protocol, tried, options, device, **special)
    return trials


def efficiency(loop: Values, plain: Values, photos: Values) -> float | None:
    """Compute which share of the photos' gain the loop takes, over the seeds that all three have.

    None without such seeds, and where training on the photos gains nothing.
    """
    seeds = loop.keys() & plain.keys() & photos.keys()
    possible = sum(photos[seed] - plain[seed] for seed in seeds)
    return sum(loop[seed] - plain[seed] for seed in seeds) / possible if possible > 0 else None


def report_loop(
    protocol: Protocol, scenes: Sequence[PreparedScene], trials: Sequence[Trial], output: Path, problems: Sequence[str]
) -> Report:
    """Tell what the loop makes of each kind of repair, scene by scene, and over all of them."""
    title = "What the loop makes of repairs of a stated quality"
    return comparison(title, protocol, scenes, trials, output, problems, _sentence, _tables)


def _tables(found: Found, run: Run, rows: Sequence[str], scenes: Sequence[str]) -> list[Table]:
    rows = [row for row in rows if not row.startswith(REPAIR)]
    overview = [_overview(found, run, rows, scenes)] if len(scenes) > 1 else []
    return [*overview, *(_table(found, run, rows, scene) for scene in scenes)]


def _table(found: Found, run: Run, rows: Sequence[str], scene: str) -> Table:
    columns = heading("PSNR", "higher"), "gain", heading("SSIM", "higher"), heading("PSNR", "higher", "of the repair")
    return Table(
        f"{scene}, {run.steps:,} steps",
        ("repairs", *columns, "efficiency"),
        tuple((row, *_cells(found, run, row, scene)) for row in rows),
        f"PSNR and SSIM of what the model renders at the judged photos, {len(run.seeds)} seed(s), with the standard "
        "deviation of several; efficiency: share of the gain of training on these photos themselves.",
    )


def _cells(found: Found, run: Run, row: str, scene: str) -> list[Cell]:
    values, plain, photos = _compared(found, run, row, scene)
    both = [values[seed] - plain[seed] for seed in values if seed in plain]
    similar = found.get((run.steps, scene, row, "ssim"), {})
    repair = found.get((run.steps, scene, REPAIR + row, "psnr"), {})
    share = None if row == PLAIN else _percent(efficiency(values, plain, photos))
    gain = fmean(both) if both and row != PLAIN else None
    return [_spread(values), gain, _spread(similar), fmean(repair.values()) if repair else None, share]


def _compared(found: Found, run: Run, row: str, scene: str) -> tuple[Values, Values, Values]:
    """Find the PSNR of a row, of the plain one, and of training on the photos."""
    values, plain, photos = (found.get((run.steps, scene, name, "psnr"), {}) for name in (row, PLAIN, PHOTOS))
    return values, plain, photos


def _spread(values: Values) -> Cell:
    if len(values) > 1:
        return Spread(fmean(values.values()), stdev(values.values()))
    return next(iter(values.values()), None)


def _overview(found: Found, run: Run, rows: Sequence[str], scenes: Sequence[str]) -> Table:
    lines = []
    for row in rows:
        shares = [_percent(efficiency(*_compared(found, run, row, scene))) for scene in scenes]
        lines += [] if row in (PLAIN, PHOTOS) else [(row, *shares)]
    return Table(
        f"Efficiency after {run.steps:,} steps",
        ("repairs", *scenes),
        tuple(lines),
        "Share of the gain of training on the judged photos themselves.",
    )


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.0%}"


def _sentence(found: Found, run: Run, scenes: Sequence[str]) -> str:
    """Say what the loop makes of perfect repairs."""
    shares = [_percent(efficiency(*_compared(found, run, "perfect", scene))) for scene in scenes]
    told = ", ".join(f"{share or 'an unknown share'} on {scene}" for share, scene in zip(shares, scenes, strict=True))
    return f"After {run.steps:,} steps perfect repairs give, of what training on the judged photos gains, {told}."
