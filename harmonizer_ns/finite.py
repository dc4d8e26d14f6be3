# SPDX-License-Identifier: Apache-2.0
"""A training step whose loss or gradients are not finite is not taken, and what is not finite is never saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harmonizer_ns.errors import InputError

MOST_SKIPPED = 10
"""Steps in a row without finite gradients after which a run gives up."""
_SHOWN = {"scales": torch.exp, "opacities": torch.sigmoid}
"""Splats keep logarithms and logits of these: a size of 0 and a full opacity are infinite there, and as good as any."""


@dataclass
class SkippedSteps:
    """Counts the steps of a run that were not taken because loss or gradients were not finite.

    Args:
        most: too many in a row.
        count: of the whole run.
        in_a_row: since the last one that was taken.
    """

    most: int = MOST_SKIPPED
    count: int = 0
    in_a_row: int = 0

    def add(self, taken: bool) -> None:
        """Count a step."""
        self.count += not taken
        self.in_a_row = 0 if taken else self.in_a_row + 1

    def check(self, step: int, advice: str) -> None:
        """Give up after too many in a row, of which this step is the last.

        Raises:
            InputError: with the advice.
        """
        if self.in_a_row >= self.most:
            raise InputError(
                f"{self.in_a_row} steps in a row had no finite gradient, the last one was step {step}: {advice}"
            )

    def told(self, step: int) -> str:
        """Say that this step was skipped."""
        return f"Step {step} skipped: loss or gradients are not finite ({self.count} skipped so far)"


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds NaN or infinity; a GPU is waited for once.

    A sum is finite only if all its terms are, and one pass is cheap; only sums that are not are looked at closely.
    """
    values = [value._values() if value.is_sparse else value for value in tensors]
    sums = [value.sum(dtype=torch.float32).to(values[-1].device) for value in values]
    if not sums or bool(torch.stack(sums).sum().isfinite()):
        return True
    return all(bool(value.isfinite().all()) for value in values)


def check_finite(state: Any, what: str, advice: str) -> None:
    """Refuse to save a state, of dictionaries and lists of tensors, that is not finite.

    Raises:
        InputError: naming the first tensor that is not, with the advice.
    """
    for name, value in _tensors(state, ""):
        shown = _SHOWN.get(name.rpartition(".")[2], torch.Tensor.detach)
        if value.is_floating_point() and not all_finite([value]) and not all_finite([shown(value.detach())]):
            raise InputError(f"{what} is not saved, {name} holds values that are not finite: {advice}")


def _tensors(state: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """All tensors within, each with the names that lead to it."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, Mapping | list | tuple):
        for key, value in state.items() if isinstance(state, Mapping) else enumerate(state):
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
