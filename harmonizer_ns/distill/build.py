# SPDX-License-Identifier: Apache-2.0
"""Put a distiller together from settings that every trainer offers under the same names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harmonizer_ns.distill.choice import TargetChoice
from harmonizer_ns.distill.distiller import Distiller
from harmonizer_ns.distill.gate import Gate, GateConfig
from harmonizer_ns.references import ReferenceSelector
from harmonizer_ns.distill.sampler import PseudoViewSampler
from harmonizer_ns.distill.schedule import ProgressiveSchedule
from harmonizer_ns.distill.store import PseudoViewStore
from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.errors import InputError
from harmonizer_ns.types import Cameras, Renderer


@dataclass
class DistillSettings:
    """What is repaired, when, and how much of it is believed."""

    enhancer: str = "builtin"
    """Name of an enhancer, or a folder with an enhancer checkpoint; "none" repairs nothing."""
    steps_per_fix: int = 1500
    """Training steps between rounds of repair; 0 turns them off and trains the plain method."""
    fix_start: int = 3000
    """First training step at which views are repaired; before it the scene is too rough."""
    targets: TargetChoice = "auto"
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
    num_references: int = 3
    """Real photos shown to the enhancer for each view."""
    store_capacity: int = 400
    """Pseudo-views kept at most; the oldest and least trusted go first."""
    real_odds: float = 0.65
    """Share of real photos among all views that are learned from, in [0.5, 1]. Every step learns from a photo, and in
    (1 - real_odds) / real_odds of the steps from a pseudo-view too."""
    gate: GateConfig = field(default_factory=GateConfig)
    """How repairs are weighed per pixel."""


def photo_only_odds(share: float) -> float:
    """Probability that a step has no pseudo-view, for a share ``r`` of photos: ``1 - (1 - r) / r``.

    Raises:
        InputError: when the share is not in [0.5, 1].
    """
    if not 0.5 <= share <= 1:
        raise InputError(f"the share of photos (real-odds) must be in [0.5, 1], got {share}")
    return 2 - 1 / share


def round_steps(settings: DistillSettings, first_step: int, last_step: int) -> tuple[int, int]:
    """First and last step at which a round may run, for a run of these steps."""
    start = max(settings.fix_start, first_step)
    return start, max(start, last_step)


def build_distiller(
    settings: DistillSettings,
    train: list[Cameras],
    targets: list[Cameras],
    renderer: Renderer,
    references: ReferenceSelector,
    enhancer: Enhancer,
    steps: tuple[int, int],
    loss_weight: float,
    photo_odds: float,
) -> Distiller:
    """A distiller from settings.

    Args:
        settings: of the run.
        train: training cameras, batches of one.
        targets: wanted cameras, batches of one.
        renderer: the model in training.
        references: finds real photos.
        enhancer: makes the training targets.
        steps: first and last step at which a round may run.
        loss_weight: trust in pseudo-views as a whole, in [0, 1].
        photo_odds: probability that a step has no pseudo-view.
    """
    first, last = steps
    return Distiller(
        schedule=ProgressiveSchedule(
            train, targets, settings.steps_per_fix, first, max(first, last), settings.step_fraction
        ),
        renderer=renderer,
        references=references,
        enhancer=enhancer,
        gate=Gate(settings.gate),
        store=PseudoViewStore(settings.store_capacity),
        sampler=PseudoViewSampler(photo_odds, loss_weight),
    )
