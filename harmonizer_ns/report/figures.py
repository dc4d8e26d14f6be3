# SPDX-License-Identifier: Apache-2.0
"""Figures become text: digits as the measure deserves, changes with their sign, and marks for the best."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from harmonizer_ns.report.content import ARROWS, Cell, Spread, Table

_DIGITS = {r"psnr|db": 2, r"\S*ssim|lpips\S*|dists|dino|sharpness": 3, r"fid|fvd|fps": 1, r"kid": 4}
"""Words of a heading, and the digits after the point below it; other figures have four significant ones."""
_CHANGE = re.compile(r"gain|change|difference|Δ", re.IGNORECASE)
_SIGNS = {ARROWS["higher"]: 1, ARROWS["lower"]: -1, ARROWS["one"]: 0}


@dataclass(frozen=True)
class Shown:
    """Holds a cell as it is shown.

    Args:
        text: what is read.
        value: what sorts it; None: it is no number.
        best: of those that it is compared with.
        tone: of a change: better, worse or nothing.
        words: it is text that does not begin with a figure.
    """

    text: str
    value: float | None = None
    best: bool = False
    tone: str = ""
    words: bool = False


def shown(table: Table) -> list[list[Shown]]:
    """Give every cell of a table as it is shown."""
    return [[_shown(table, row, column) for column in range(len(cells))] for row, cells in enumerate(table.rows)]


def parts(heading: str) -> tuple[str, int, str]:
    """Take a heading apart: "PSNR ↑ plain" is "PSNR ↑", 1 and "plain"; without an arrow up or down its sign is 0."""
    for arrow, sign in _SIGNS.items():
        measure, found, of = heading.partition(arrow)
        if found:
            return measure + arrow, sign, of.strip()
    return heading, 0, ""


def change(value: float, sign: int, digits: int) -> tuple[str, str]:
    """Tell a change with its sign, and whether it is better or worse; neither where it rounds to nothing."""
    rounded = round(value, digits) * sign
    return f"{value:+.{digits}f}", "better" if rounded > 0 else "worse" if rounded < 0 else ""


def digits_of(heading: str, values: list[float]) -> int:
    """Choose the digits after the point: by the measure, else so that the largest value has four significant ones.

    A change has two, and at least two after the point.
    """
    for words, digits in _DIGITS.items():
        if re.search(rf"\b({words})\b", heading, re.IGNORECASE):
            return digits
    if all(value == round(value) for value in values):
        return 0
    before_point = 1 + math.floor(math.log10(max(map(abs, values))))
    return min(max(2, 2 - before_point) if _CHANGE.match(heading) else max(0, 4 - before_point), 8)


def numbers(cells: list[Cell]) -> list[float]:
    """Give the finite numbers among cells; of a spread, its mean."""
    values = [cell.mean if isinstance(cell, Spread) else cell for cell in cells]
    return [float(value) for value in values if not (value is None or isinstance(value, str)) and math.isfinite(value)]


def _shown(table: Table, row: int, column: int) -> Shown:
    cell = table.rows[row][column]
    if cell is None or isinstance(cell, str):
        return Shown("-" if cell is None else cell, words=bool(cell) and not re.match(r"[+-]?\d", cell))
    heading, alike, rivals = _company(table, row, column)
    digits, sign = digits_of(heading, numbers(alike)), parts(heading)[1]
    mean = cell.mean if isinstance(cell, Spread) else cell
    changed = _CHANGE.match(heading) or _CHANGE.match(table.columns[column])
    text, tone = change(mean, sign, digits) if changed else (f"{mean:,.{digits}f}", "")
    if isinstance(cell, Spread):
        text += f" ± {cell.deviation:.{digits}f}"
    if not math.isfinite(mean):
        return Shown(text)
    ranked = {round(value, digits) * sign for value in numbers(rivals)}
    return Shown(text, mean, sign != 0 and len(ranked) > 1 and round(mean, digits) * sign == max(ranked), tone)


def _company(table: Table, row: int, column: int) -> tuple[str, list[Cell], list[Cell]]:
    """Find a cell's heading, the cells that have as many digits, and those that it is compared with."""
    cells, heading = table.rows[row], table.columns[column]
    label, sign, of = parts(heading)
    if not sign and isinstance(cells[0], str) and parts(cells[0])[1]:
        figures = [other for other, name in zip(cells[1:], table.columns[1:], strict=True) if not _CHANGE.match(name)]
        return cells[0], figures, [] if _CHANGE.match(heading) else figures
    line = [other[column] for other in table.rows]
    told = [parts(name) for name in table.columns]
    beside = [other for other, (measure, _, what) in zip(cells, told, strict=True) if measure == label and what]
    return heading, line, beside if of and len(beside) > 1 else line
