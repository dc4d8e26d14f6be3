# SPDX-License-Identifier: Apache-2.0
"""What optimizers and generators remember, as tensors and numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def on(value: Any, device: torch.device) -> Any:
    """A tensor on a device; anything else as it is."""
    return value.to(device) if isinstance(value, Tensor) else value


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Moments of an optimizer with one parameter; its rates follow from the settings."""
    (value,) = optimizer.param_groups[0]["params"]
    return dict(optimizer.state[value])


def set_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any], device: torch.device) -> None:
    """Undo `optimizer_state`."""
    (value,) = optimizer.param_groups[0]["params"]
    optimizer.state[value] = {name: on(item, device) for name, item in state.items()}


def random_state() -> dict[str, Any]:
    """States of torch's global generators."""
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Undo `random_state`."""
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
