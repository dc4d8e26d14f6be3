# SPDX-License-Identifier: Apache-2.0
"""Results of an evaluation: averages, a table for the terminal, a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from harmonizer_ns.evaluation.quality import MEASURES, Measure, Scores, means
from harmonizer_ns.views import ENHANCED, PLAIN, TRUTH

GOOD_HALF_TOLERANCE = 0.1
"""By how many dB the pixels that were already good may get worse."""

_FLAT = {"psnr": "psnr_{}", "ssim": "ssim_{}", "lpips_squeeze": "lpips_{}"}
_FLAT_ROLES = {PLAIN: "render", ENHANCED: "enhanced"}


@dataclass(frozen=True)
class ViewResult:
    """Holds what one view scored.

    Args:
        name: of the view.
        shows: the photo's name, or the pair's.
        scores: by picture, then by measure.
        seconds: what the enhancer took.
    """

    name: str
    shows: str
    scores: dict[str, Scores]
    seconds: float | None = None


@dataclass(frozen=True)
class SceneResult:
    """Holds averages over the views of one scene.

    Args:
        scene: its name.
        views: how many.
        scores: by picture (plain, enhanced; truth for videos), then by measure.
        fps: pictures enhanced in a second.
        each: the views.
        positions: of the cameras, by group.
        how: the pictures were made.
    """

    scene: str
    views: int
    scores: dict[str, Scores]
    fps: float | None = None
    each: tuple[ViewResult, ...] = ()
    positions: dict[str, Float[Tensor, "n 3"]] = field(default_factory=dict)
    how: str = ""

    def score(self, measure: str, role: str = PLAIN) -> float | None:
        """Give one average; None where it was not measured."""
        return self.scores.get(role, {}).get(measure)

    def gain(self, measure: str) -> float | None:
        """Tell how much more the enhanced picture scores than the plain one."""
        plain, enhanced = self.score(measure), self.score(measure, ENHANCED)
        return None if plain is None or enhanced is None else enhanced - plain

    def flat(self) -> dict[str, Any]:
        """Give the result as JSON holds it: the main figures by one name each, all figures in ``scores``."""
        figures = {"scene": self.scene, "views": self.views}
        for measure, name in _FLAT.items():
            figures |= {name.format(word): self.score(measure, role) for role, word in _FLAT_ROLES.items()}
        figures |= {"good_before": self.score("good_half_psnr"), "good_after": self.score("good_half_psnr", ENHANCED)}
        return {
            **figures,
            "fps": self.fps,
            "how": self.how,
            "scores": self.scores,
            "each": [asdict(view) for view in self.each],
        }


def scene_result(scene: str, views: Sequence[ViewResult], video: dict[str, Scores] | None = None) -> SceneResult:
    """Average what the views scored; the first view, which warms caches up, does not count for the speed.

    Args:
        scene: its name.
        views: at least one.
        video: what its clips scored, by picture.

    Raises:
        ValueError: without views.
    """
    if not views:
        raise ValueError(f"{scene} has no held-out views")
    roles = views[0].scores
    scores = {role: means([view.scores[role] for view in views]) for role in roles}
    for role, found in (video or {}).items():
        scores[role] = {**scores.get(role, {}), **found}
    seconds = [view.seconds for view in views if view.seconds is not None]
    timed = seconds[1:] or seconds
    fps = len(timed) / max(sum(timed), 1e-9) if timed else None
    return SceneResult(scene, len(views), scores, fps, tuple(views))


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

    A measure that some scene lacks has no average.

    Raises:
        ValueError: without results.
    """
    if not results:
        raise ValueError("no scenes to average over")
    roles = dict.fromkeys(role for result in results for role in result.scores)
    scores = {role: means([result.scores.get(role, {}) for result in results], all_of_them=True) for role in roles}
    speeds = [result.fps for result in results if result.fps is not None]
    fps = fmean(speeds) if len(speeds) == len(results) else None
    return SceneResult("average", sum(result.views for result in results), scores, fps)


def judge(results: list[SceneResult]) -> Verdict | None:
    """The verdict over the scenes that have enhanced pictures; None without any."""
    enhanced = [result for result in results if result.gain("psnr") is not None]
    if not enhanced:
        return None
    mean = average(enhanced)
    return Verdict(len(enhanced), mean.gain("psnr") or 0.0, mean.gain("good_half_psnr") or 0.0)


def measured(results: Iterable[SceneResult]) -> list[Measure]:
    """Those of the `MEASURES` that some scene has, in their order; changes are shown beside what changes."""
    found = {name for result in results for row in result.scores.values() for name, v in row.items() if v is not None}
    return [measure for name, measure in MEASURES.items() if name in found and name != "good_half_change"]


def told(results: Iterable[SceneResult]) -> str:
    """How the pictures of the scenes were made."""
    return "; ".join(dict.fromkeys(result.how for result in results))


def table(results: list[SceneResult], title: str, mean: SceneResult | None = None) -> Table:
    """One row per scene and picture, with the gain over the plain one in brackets; then, of several, the average.

    Args:
        results: of the scenes.
        title: of the table.
        mean: their average; None works it out.
    """
    mean = mean or average(results)
    rows = [*results, replace(mean, scene="average")] if len(results) > 1 else [replace(results[0], scores=mean.scores)]
    measures, has_fps = measured(rows), any(row.fps is not None for row in rows)
    shown = Table(title=title)
    for name in ("scene", "views", "picture", *(measure.title for measure in measures), *(["fps"] if has_fps else [])):
        shown.add_column(name, justify="left" if name in ("scene", "picture") else "right", overflow="fold")
    for row in rows:
        shown.add_section()
        for number, role in enumerate(role for role in (PLAIN, ENHANCED, TRUTH) if role in row.scores):
            first = [row.scene, str(row.views)] if number == 0 else ["", ""]
            fps = f"{row.fps:.1f}" if role == ENHANCED and row.fps is not None else ""
            cells = [_cell(row, role, measure) for measure in measures]
            shown.add_row(*first, role, *cells, *([fps] if has_fps else []))
    return shown


def _cell(row: SceneResult, role: str, measure: Measure) -> str:
    value = row.score(measure.name, role)
    if value is None:
        return "" if role == TRUTH else "-"
    text, gain = f"{value:.{measure.digits}f}", row.gain(measure.name)
    if role != ENHANCED or gain is None or measure.better == "one":
        return text
    return f"{text} ({gain:+.{measure.digits}f})"


def sentence(verdict: Verdict) -> str:
    """The verdict in words."""
    return (
        f"{'PASS' if verdict.passed else 'FAIL'}: {verdict.gain:+.2f} dB over the plain render and "
        f"{verdict.good_half_change:+.2f} dB on the pixels that were already good "
        f"(allowed: {-GOOD_HALF_TOLERANCE:+.1f}), averaged over {verdict.scenes} scene{'s' * (verdict.scenes != 1)}"
    )


def content(results: list[SceneResult], protocol: dict[str, Any], mean: SceneResult | None = None) -> dict[str, Any]:
    """Give the results, their average, the verdict and the settings they were made with, as JSON holds them."""
    verdict = judge(results)
    return {
        "protocol": protocol,
        "scenes": [result.flat() for result in results],
        "average": (mean or average(results)).flat(),
        "verdict": None if verdict is None else {**asdict(verdict), "passed": verdict.passed},
    }


def wide_console() -> Console:
    """A console whose tables keep their cells whole, also in a log file, which has 80 columns."""
    console = Console()
    console.width = max(console.width, 120)
    return console
