# SPDX-License-Identifier: Apache-2.0
"""Curves and camera positions become points in the pixels of a drawing; the page gives them shapes and colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from harmonizer_ns.report.content import CameraMap, Plot
from harmonizer_ns.spread import evenly_spread

Point = tuple[float, float]
_MOST_POINTS = 400
"""Points of a curve that are drawn."""
_WIDTH, _HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 12, 28
"""Margins."""


@dataclass(frozen=True)
class Drawing:
    """Holds what is drawn, in pixels, y pointing down.

    Args:
        pieces: by name, points in pieces: a curve has one more for each gap.
        x_ticks: places on the x axis, and what they are called.
        y_ticks: likewise.
    """

    pieces: dict[str, list[list[Point]]]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = _HEIGHT - _BOTTOM


def curves(plot: Plot) -> Drawing | None:
    """Draw a plot; None where no point is finite."""
    thinned = {name: evenly_spread(points, _MOST_POINTS, ends=True) for name, points in plot.series.items()}
    return _draw(thinned)


def seen_from_above(cameras: CameraMap) -> Drawing | None:
    """Draw camera positions in the plane in which they differ most; None where there are none.

    The plane is spanned by the two principal components of all positions: the ground where cameras walk around, the
    wall of cameras where they stand side by side.
    """
    groups = {name: positions.detach().cpu().double().reshape(-1, 3) for name, positions in cameras.groups.items()}
    positions = torch.cat([torch.zeros(0, 3, dtype=torch.double), *groups.values()])
    positions = positions[positions.isfinite().all(dim=1)]
    if not len(positions):
        return None
    mean = positions.mean(dim=0)
    _, axes = torch.linalg.eigh((positions - mean).T @ (positions - mean))  # ascending
    plane = axes[:, [2, 1]]
    plane = plane * plane.gather(0, plane.abs().argmax(dim=0)[None]).sign()  # the same on every machine
    return _draw({name: (((group - mean) @ plane).tolist()) for name, group in groups.items()}, one_scale=True)


def _draw(groups: Mapping[str, Sequence[Sequence[float]]], one_scale: bool = False) -> Drawing | None:
    """Scale points so that they fill the drawing."""
    finite = [(x, y) for points in groups.values() for x, y in points if math.isfinite(x + y)]
    if not finite:
        return None
    (x_low, x_high), (y_low, y_high) = (_range(values) for values in zip(*finite, strict=True))
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    if one_scale:
        unit = max((x_high - x_low) / width, (y_high - y_low) / height)
        x_low, x_high = _widened(x_low, x_high, unit * width)
        y_low, y_high = _widened(y_low, y_high, unit * height)

    def place(x: float, y: float) -> Point:
        across, up = (x - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low)
        return round(_LEFT + across * width, 1), round(_HEIGHT - _BOTTOM - up * height, 1)

    return Drawing(
        {name: _pieces(place(x, y) if math.isfinite(x + y) else None for x, y in ps) for name, ps in groups.items()},
        [(place(tick, y_low)[0], f"{tick:,.6g}") for tick in _ticks(x_low, x_high)],
        [(place(x_low, tick)[1], f"{tick:,.6g}") for tick in _ticks(y_low, y_high)],
    )


def _pieces(points: Iterable[Point | None]) -> list[list[Point]]:
    """Cut a curve where a point is missing."""
    pieces: list[list[Point]] = [[]]
    for point in points:
        if point is None:
            pieces.append([])
        else:
            pieces[-1].append(point)
    return [piece for piece in pieces if piece]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Find the range of values with a twentieth more on both sides; that of one value is not empty."""
    low, high = min(values), max(values)
    return _widened(low, high, 1.1 * (high - low) or abs(high) or 1.0)


def _widened(low: float, high: float, length: float) -> tuple[float, float]:
    middle = (low + high) / 2
    return middle - length / 2, middle + length / 2


def _ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose round numbers: multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) <= most * power * factor)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
