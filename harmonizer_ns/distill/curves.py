# SPDX-License-Identifier: Apache-2.0
"""What a run measures over its steps is kept as curves, a few hundred points each, and resumes with the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Points = list[tuple[int, float]]
"""Steps, ascending, and values."""
_POINTS = 200
"""Points of a curve that is measured in every step."""


class Curves:
    """Holds curves by name, ``PLOT/CURVE``.

    Args:
        steps: of the whole run.
    """

    def __init__(self, steps: int) -> None:
        self.points: dict[str, Points] = {}
        self._every = max(1, steps // _POINTS)
        self._sums: dict[str, tuple[Tensor | float, int]] = {}

    def add(self, step: int, values: Mapping[str, Tensor | float]) -> None:
        """Take what every step measures: a point is the mean since the last one, so that noise goes.

        Tensors stay where they are until then: no step waits for them.
        """
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + (value.detach() if isinstance(value, Tensor) else value), count + 1
        if (step + 1) % self._every == 0:
            self.mark(step, {name: float(total) / count for name, (total, count) in self._sums.items()})
            self._sums = {}

    def mark(self, step: int, values: Mapping[str, float]) -> None:
        """Take what is measured now and then as points of their own, in place of what came at or after this step."""
        for name, value in values.items():
            self.points[name] = [point for point in self.points.get(name, []) if point[0] < step] + [(step, value)]

    def plot(self, name: str) -> dict[str, Points]:
        """The curves of a plot by their own names."""
        start = f"{name}/"
        return {curve.removeprefix(start): found for curve, found in self.points.items() if curve.startswith(start)}

    def state_dict(self) -> dict[str, Any]:
        """Give everything as plain lists and numbers."""
        points = {name: [list(point) for point in points] for name, points in self.points.items()}
        return {"points": points, "sums": {name: [float(total), n] for name, (total, n) in self._sums.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken."""
        self.points = {
            str(name): [(int(step), float(value)) for step, value in points] for name, points in state["points"].items()
        }
        self._sums = {str(name): (float(total), int(n)) for name, (total, n) in state["sums"].items()}
