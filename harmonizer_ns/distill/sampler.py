# SPDX-License-Identifier: Apache-2.0
"""Which view a training step learns from: a photo, or one of the pseudo-views."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from harmonizer_ns.distill.store import PseudoViewStore
from harmonizer_ns.types import PseudoView


class PseudoViewSampler:
    """Draws pseudo-views by age and confidence, and leaves the rest of the steps to the photos.

    Args:
        real_odds: probability in [0, 1] that a step learns from a photo.
        loss_weight: trust, in [0, 1], in pseudo-views as a whole; multiplied into the weight of a drawn view.
        seed: of its own generator, so that draws depend on nothing else in the process.

    Raises:
        ValueError: when a probability or weight is out of range.
    """

    def __init__(self, real_odds: float = 0.65, loss_weight: float = 1.0, seed: int = 0) -> None:
        if not 0 <= real_odds <= 1 or not 0 <= loss_weight <= 1:
            raise ValueError(f"real_odds and loss_weight must be in [0, 1], got {real_odds} and {loss_weight}")
        self.real_odds, self.loss_weight = real_odds, loss_weight
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, store: PseudoViewStore, trust: float = 1.0) -> PseudoView | None:
        """A pseudo-view for this step, or None to learn from a photo.

        Views are drawn in proportion to the store's ``values``: confidence, halved every ``half_life`` rounds. The
        generator advances by the same amount whatever the outcome.

        Args:
            store: what to draw from.
            trust: multiplied into the weight of the drawn view, in [0, 1]; nothing is drawn at 0.
        """
        use_real, position = torch.rand(2, generator=self._generator, dtype=torch.float64).tolist()
        if use_real < self.real_odds or not len(store) or trust <= 0:
            return None
        cumulative = store.values().cumsum(dim=0)
        if cumulative[-1] <= 0:
            return None
        index = int(torch.searchsorted(cumulative, position * cumulative[-1], right=True))
        view = store[min(index, len(store) - 1)]
        return replace(view, weight=view.weight * (self.loss_weight * trust))

    def state_dict(self) -> dict[str, Any]:
        """State of the generator, as a byte tensor."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the same draws as where ``state_dict`` was taken."""
        self._generator.set_state(state["generator"].cpu())
