# SPDX-License-Identifier: Apache-2.0
"""The learning rate of a step, as a factor of its peak: a pure function, so there is no scheduler state to lose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from harmonizer_ns.errors import InputError

Decay = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class ScheduleConfig:
    """How long to train, and the learning rate on the way."""

    max_steps: int = 10_000
    """Optimizer steps of the whole run, resumed parts included."""
    warm_up: int = 500
    """Steps over which the learning rate rises linearly to its peak."""
    decay: Decay = "constant"
    """After the warm-up: stay, fall linearly, or fall as a half cosine, to `floor` at `max_steps`."""
    floor: float = 0.0
    """Learning rate at the end of the decay, as a share of the peak."""

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise InputError(f"--schedule.max-steps should be at least 1, it is {self.max_steps}")


def rate_factor(step: int, config: ScheduleConfig) -> float:
    """Factor of the learning rate at the optimizer's ``step``, counted from 1.

    ``min(1, step / warm_up) * (floor + (1 - floor) * d(p))`` with ``p`` the share of the steps after the warm-up that
    are done: ``d = 1``, ``1 - p`` or ``(1 + cos(pi p)) / 2``.
    """
    progress = min(1.0, max(0, step - config.warm_up) / max(1, config.max_steps - config.warm_up))
    falling = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
    warm = min(1.0, step / max(1, config.warm_up))
    return warm * (config.floor + (1 - config.floor) * falling[config.decay])
