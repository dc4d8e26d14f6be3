# SPDX-License-Identifier: Apache-2.0
"""Views are ranked, scored and compared; the page shows pictures of the worst and of the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harmonizer_ns.report.content import Table, View
from harmonizer_ns.report.figures import numbers, parts

WORST, BEST = 12, 4
"""How many views are shown with pictures."""


@dataclass(frozen=True)
class Changes:
    """Holds how views differ between two pictures in one measure; a positive ``sign`` tells that more is better."""

    measure: str
    sign: int
    before: str
    after: str
    values: list[tuple[View, float]]


def worst_first(views: Sequence[View]) -> list[View]:
    """Sort views by rank; ranks that are not finite come last."""
    return sorted(views, key=lambda view: view.rank if math.isfinite(view.rank) else math.inf)


def with_pictures(views: list[View]) -> list[View]:
    """Keep the worst and the best of ranked views; of many, those that have pictures."""
    views = views if len(views) <= WORST + BEST else [view for view in views if view.pictures] or views
    return views if len(views) <= WORST + BEST else views[:WORST] + views[-BEST:]


def all_scores(views: list[View]) -> Table:
    """Put the scores of all views into one table."""
    names = _score_names(views)
    rows = tuple((view.name, *(view.scores.get(name) for name in names)) for view in views)
    return Table("All views, worst first", ("view", *names), rows)


def scores_by_picture(view: View) -> Table:
    """Put the scores of one view into a table with a row for each measure and a column for each picture."""
    rows: dict[str, dict[str, float | None]] = {}
    for name, score in view.scores.items():
        label, _, of = parts(name)
        rows.setdefault(label, {})[of] = score
    pictures = list(dict.fromkeys(of for row in rows.values() for of in row))
    cells = tuple((label, *(row.get(picture) for picture in pictures)) for label, row in rows.items())
    return Table("", ("", *pictures), cells)


def changes(views: list[View]) -> Changes | None:
    """Compare the first and the last picture that have the views' first measure; None where no view has both."""
    told = {name: parts(name) for name in _score_names(views) if parts(name)[2]}
    label, sign, _ = next(iter(told.values()), ("", 0, ""))
    same = [name for name in told if told[name][0] == label]
    if len(same) < 2:
        return None
    pairs = [numbers([view.scores.get(same[0]), view.scores.get(same[-1])]) for view in views]
    values = [(view, pair[1] - pair[0]) for view, pair in zip(views, pairs, strict=True) if len(pair) == 2]
    return Changes(label, sign, told[same[0]][2], told[same[-1]][2], values) if values else None


def _score_names(views: list[View]) -> list[str]:
    return list(dict.fromkeys(name for view in views for name in view.scores))
