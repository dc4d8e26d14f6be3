# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's optimizers take a step here only when loss and gradients are finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nerfstudio.engine.optimizers import Optimizers
from torch import Tensor
from torch.cuda.amp.grad_scaler import GradScaler

from harmonizer_ns.finite import all_finite


class FiniteOptimizers(Optimizers):
    """Are upstream's, and ``taken`` says whether they took the last step.

    In mixed precision the scaler sees to the gradients, which overflow now and then as a matter of course.

    Args:
        config: settings of each group.
        param_groups: parameters of each group.
        losses: gives the terms of the present step's loss.
    """

    def __init__(
        self, config: dict[str, Any], param_groups: dict[str, Any], losses: Callable[[], list[Tensor]]
    ) -> None:
        super().__init__(config, param_groups)
        self._losses, self.taken = losses, True

    def optimizer_scaler_step_some(self, grad_scaler: GradScaler, param_groups: list[str]) -> None:
        """Take a step with some groups, or with none of them."""
        # Density control replaces parameters in the optimizers, not in upstream's own lists.
        chosen = {self.optimizers[name]: _gradients(self.optimizers[name]) for name in param_groups}
        checked = [] if grad_scaler.is_enabled() else [value for found in chosen.values() for value in found]
        self.taken = all_finite([*self._losses(), *checked])
        if self.taken:
            super().optimizer_scaler_step_some(grad_scaler, param_groups)
            return
        for optimizer, gradients in chosen.items():
            if gradients:
                grad_scaler.unscale_(optimizer)  # the scaler wants to have seen them


def _gradients(optimizer: Any) -> list[Tensor]:
    return [value.grad for group in optimizer.param_groups for value in group["params"] if value.grad is not None]
