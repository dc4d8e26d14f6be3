# SPDX-License-Identifier: Apache-2.0
"""Every trainer offers the settings of repairs under the same names and with the same defaults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from harmonizer_ns.distill.gate import GateConfig
from harmonizer_ns.enhancers.specs import options_of
from harmonizer_ns.errors import InputError, check_limits
from harmonizer_ns.references import NUM_REFERENCES

NS_TRAIN, GSPLAT_TRAINER = "config.yml", "cfg.yml"
"""What runs of the two trainers leave their settings in."""
_EARLIER_NAMES = {"real_odds": "photo_share"}


@dataclass
class DistillSettings:
    """What is repaired, when, and how much of it is believed."""

    enhancer: str = "builtin"
    """Name of an enhancer, or a folder with an enhancer checkpoint; "none" repairs nothing."""
    steps_per_fix: int = 1500
    """Training steps between rounds of repair; 0 turns them off."""
    fix_start: int = 3000
    """First training step at which views are repaired; before it the scene is too rough."""
    fix_steps: list[int] | None = None
    """Training steps at which views are repaired, instead of every steps_per_fix from fix_start on."""
    targets: Literal["auto", "path", "eval"] = "auto"
    """Where to look: "auto" extrapolates around the capture, "path" reads camera_path, "eval" takes the poses (never
    the photos) of the held-out views, which is the papers' protocol."""
    camera_path: Path | None = None
    """A camera_path.json as nerfstudio's viewer exports it, for targets "path"."""
    num_targets: int = 16
    """At most so many target views."""
    extrapolation: float = 0.2
    """How far "auto" targets lie off the capture, as a fraction of its extent."""
    step_fraction: float = 0.5
    """How far the cameras move towards their targets in a round, in units of the training cameras' spacing; further
    where a target would not be reached within the first half of the rounds."""
    num_references: int = NUM_REFERENCES
    """Real photos shown to the enhancer for each view."""
    store_capacity: int = 400
    """Pseudo-views kept at most; the oldest and least trusted go first."""
    photo_share: Annotated[float | None, tyro.conf.arg(aliases=["--pipeline.real-odds", "--real-odds"])] = None
    """Share of real photos among all views that are learned from, in [0.5, 1]. Every step learns from a photo, and the
    share (1 - photo_share) / photo_share of the steps learns from a pseudo-view too. None: 0.65 with fading trust, 0.5
    with lasting."""
    pseudo_loss_weight: Annotated[float, tyro.conf.arg(aliases=["--novel-data-lambda"])] = 1.0
    """Trust in pseudo-views as a whole, in [0, 1]."""
    trust: Literal["auto", "fading", "lasting"] = "auto"
    """Whether trust in pseudo-views falls to 0 until the end of the run. Fading suits enhancers whose errors are alike
    in all views, as the built-in's are: a scene learns them. Lasting suits those whose errors differ from view to view,
    as those of diffusion do, and average out. "auto" asks the enhancer."""
    gate: GateConfig = field(default_factory=GateConfig)
    """How repairs are weighed per pixel."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over settings that were saved, possibly under names of an earlier version."""
        state = {_EARLIER_NAMES.get(name, name): value for name, value in state.items()}
        if "fade" in state:
            state["trust"] = "fading" if state.pop("fade") else "lasting"
        self.__dict__.update(state)

    def check(self) -> None:
        """Refuse settings that cannot work, before any data is read.

        Raises:
            InputError: naming the setting, and for an unknown enhancer the known ones.
        """
        check_limits(self, pseudo_loss_weight=(0, 1), photo_share=(0.5, 1))
        check_limits(self, num_targets=(1, math.inf), num_references=(0, math.inf), store_capacity=(1, math.inf))
        check_limits(self, extrapolation=(1e-6, math.inf), step_fraction=(1e-6, math.inf))
        if self.targets == "path" and self.camera_path is None:
            raise InputError("targets 'path' needs a camera path (--camera_path, --pipeline.camera-path in nerfstudio)")
        options_of(self.enhancer)

    def fades(self, errors_repeat: bool) -> bool:
        """Tell whether trust fades, for an enhancer whose errors repeat or not."""
        return errors_repeat if self.trust == "auto" else self.trust == "fading"

    def pseudo_probability(self, errors_repeat: bool) -> float:
        """Probability that a step learns from a pseudo-view besides its photo, ``(1 - r) / r`` for a share r."""
        share = self.photo_share or (0.65 if self.fades(errors_repeat) else 0.5)
        return 1 / share - 1

    def round_steps(self, first_step: int, last_step: int) -> Sequence[int]:
        """The steps of the rounds in a run of these steps; none where the settings ask for no repairs."""
        if self.enhancer == "none":
            return ()
        if self.fix_steps:
            return sorted({step for step in self.fix_steps if step >= first_step})
        if self.steps_per_fix <= 0:
            return ()
        start = max(self.fix_start, first_step)
        return range(start, max(start, last_step) + 1, self.steps_per_fix)
