# SPDX-License-Identifier: Apache-2.0
"""Splats are changed by one optimizer for each of their tensors, whose state is part of checkpoints."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from gsplat_trainer.config import Config
from harmonizer_ns.splats.model import NAMES


class VisibleAdam(torch.optim.Adam):
    """Is Adam (Kingma and Ba 2015), but touches only the rows marked in ``visible``; None means all."""

    visible: Bool[Tensor, " n"] | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the visible rows; moments of the others rest."""
        for group in self.param_groups:
            (value,) = group["params"]
            if value.grad is None:
                continue
            state = self.state[value]
            if not state:
                state.update(
                    step=torch.tensor(0.0), exp_avg=torch.zeros_like(value), exp_avg_sq=torch.zeros_like(value)
                )
            state["step"] += 1
            rows = slice(None) if self.visible is None else self.visible.nonzero()[:, 0]
            _adam_rows(value, state, rows, group)


def _adam_rows(value: Tensor, state: dict[str, Tensor], rows: Any, group: dict[str, Any]) -> None:
    beta1, beta2 = group["betas"]
    count, gradient = float(state["step"]), value.grad[rows]  # type: ignore[index]
    mean = state["exp_avg"][rows].lerp(gradient, 1 - beta1)
    square = state["exp_avg_sq"][rows].lerp(gradient.square(), 1 - beta2)
    state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
    denominator = (square / (1 - beta2**count)).sqrt() + group["eps"]
    value[rows] -= group["lr"] * mean / (1 - beta1**count) / denominator


def make_optimizers(
    splats: torch.nn.ParameterDict, config: Config, extent: float, world_size: int
) -> dict[str, torch.optim.Optimizer]:
    """Make one optimizer per tensor, as density control expects; rates follow the square root of the batch."""
    batch = config.batch_size * world_size
    options: dict[str, Any] = {
        "eps": 1e-15 / math.sqrt(batch),
        "betas": (1 - batch * (1 - 0.9), 1 - batch * (1 - 0.999)),
        "fused": not config.only_visible,
    }
    kind = VisibleAdam if config.only_visible else torch.optim.Adam
    rates = {name: getattr(config, f"{name}_lr") for name in NAMES}
    rates["means"] *= extent * config.global_scale
    return {name: kind([splats[name]], lr=rates[name] * math.sqrt(batch), **options) for name in NAMES}


def set_means_rate(optimizers: dict[str, torch.optim.Optimizer], start: float, progress: float) -> None:
    """Decay the positions' step size to a hundredth; it depends on the step alone, so that resumed runs agree."""
    optimizers["means"].param_groups[0]["lr"] = start * 0.01**progress


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Take the moments of an optimizer with one parameter; its rates follow from the settings."""
    return optimizer.state_dict()["state"].get(0, {})


def set_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put back what `optimizer_state` took."""
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: state}})
