# SPDX-License-Identifier: Apache-2.0
"""This module keeps an exponential moving average of the weights that learn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """Follows weights: ``a <- a + (1 - d) (w - a)`` after every step, with ``d = min(decay, step / (step + 10))``.

    The start is short-sighted, so that the average does not remember the initial weights for long. A decay of 0 keeps
    no average at all: the weights then stand for it.

    Args:
        parameters: what to follow, by name.
        decay: in [0, 1).
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = parameters if decay else {}
        self.values = {name: value.detach().clone() for name, value in self.parameters.items()}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move toward the weights as they are after ``step`` steps."""
        if self.values:
            move = get_ema_multi_avg_fn(min(self.decay, step / (step + 10)))
            move(list(self.values.values()), list(self.parameters.values()), step)

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        """Continue from a stored average of the same weights."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the network hold the average within the block (for validation and export)."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, value in self.values.items():
            parameter = self.parameters[name]
            current = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(current)
