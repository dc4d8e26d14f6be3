# SPDX-License-Identifier: Apache-2.0
"""What a report consists of. Headings of figures tell which way is better: "PSNR ↑", "LPIPS ↓ enhanced"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxtyping import Float, UInt8
from torch import Tensor

ARROWS = {"higher": "↑", "lower": "↓", "one": "→1"}


class Spread(NamedTuple):
    """Holds a mean over seeds or scenes and its standard deviation."""

    mean: float
    deviation: float


Cell = str | float | Spread | None
"""None: was not measured."""


def heading(measure: str, better: Literal["higher", "lower", "one"], of: str = "") -> str:
    """Name a column, a row or a score: ``heading("PSNR", "higher", "plain")`` is "PSNR ↑ plain".

    Args:
        measure: such as "PSNR"; it also chooses the number of digits.
        better: which values are better; "one": those near to 1, of which none is marked.
        of: what was measured. Columns with the same measure of different things are compared within each row;
            any other column is compared from row to row.
    """
    return f"{measure} {ARROWS[better]} {of}".rstrip()


@dataclass(frozen=True)
class Table:
    """Holds figures.

    Args:
        title: stands above.
        columns: headings; with an arrow (`heading`) the best cells are marked, and figures below "gain ..." or
            "change ..." carry their sign. The first column may name measures likewise.
        rows: one cell for each column.
        note: stands below.

    Raises:
        ValueError: when a row has another length.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: a row has {len(row)} cells for {len(self.columns)} columns: {row}")


@dataclass(frozen=True)
class Plot:
    """Holds curves, each with a name and points ``(x, y)``; a point that is not finite leaves a gap."""

    title: str
    x_label: str
    y_label: str
    series: dict[str, tuple[tuple[float, float], ...]]


@dataclass(frozen=True)
class View:
    """Holds the pictures of one view.

    Args:
        name: of the view.
        pictures: by name: plain, harmonized, enhanced, truth, weight, in this order where they exist; RGB or grey in
            [0, 1] or bytes, or an image file, which is read when it is shown.
        scores: by name, best made by `heading` with the picture's name: "PSNR ↑ enhanced".
        rank: the lowest is the worst and is shown first: what the view gained, or its PSNR.
    """

    name: str
    pictures: Mapping[str, Float[Tensor, "_ h w"] | UInt8[Tensor, "_ h w"] | Path]
    scores: Mapping[str, float | None]
    rank: float


@dataclass(frozen=True)
class CameraMap:
    """Holds camera positions by group: photos, held-out, targets, path; "path" is drawn as a line."""

    groups: dict[str, Float[Tensor, "n 3"]]


@dataclass(frozen=True)
class Report:
    """Holds all that is told.

    Args:
        title: names the command and what it ran on.
        summary: sentences; the first is the headline, and says what got better and what got worse.
        tables: the first stands at the top.
        plots: over training.
        views: in any order.
        cameras: where the pictures were taken from.
        settings: protocol, hashes, versions.
        data: raw figures; they go into the JSON alone.
        galleries: more views by title, each a section of its own that shows all of them in their order.
        maps: cameras of several scenes, by their names.
        ranked_by: the figure that the views' ranks are: "PSNR gained from plain to enhanced".
    """

    title: str
    summary: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    views: tuple[View, ...] = ()
    cameras: CameraMap | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    galleries: dict[str, tuple[View, ...]] = field(default_factory=dict)
    maps: dict[str, CameraMap] = field(default_factory=dict)
    ranked_by: str = ""
