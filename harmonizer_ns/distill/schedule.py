# SPDX-License-Identifier: Apache-2.0
"""The schedule says when to repair views, and from where: in small steps from the photos toward the wanted views."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harmonizer_ns.poses import check_poses, interpolate_pose, nearest_spacing, rotation_angle
from harmonizer_ns.references import cover_cameras
from harmonizer_ns.types import Cameras

MIN_ROTATION_SPACING = math.radians(10.0)
"""A forward-facing capture has no rotation between its cameras; a target may still turn this much per spacing."""

ARRIVAL = 0.5
"""Share of the rounds within which every target is reached."""


@dataclass(frozen=True)
class Approach:
    """The way to one target.

    Args:
        start: the training camera it starts from, already at the target's image size.
        target: the wanted camera.
        stride: how far a round moves along ``u``, in (0, 1]; ``u = 0`` is the start and ``u = 1`` the target.
    """

    start: Cameras
    target: Cameras
    stride: float

    def position(self, rounds: int) -> float:
        """``u`` after a number of rounds."""
        return min(1.0, rounds * self.stride)

    def camera(self, rounds: int) -> Cameras:
        """The camera after a number of rounds; on arrival it is exactly the target."""
        u = self.position(rounds)
        if u >= 1.0:
            return self.target
        pose = interpolate_pose(self.start.camera_to_world[0], self.target.camera_to_world[0], u)
        intrinsics = torch.lerp(self.start.intrinsics, self.target.intrinsics, u)
        return Cameras(pose[None], intrinsics, self.target.width, self.target.height)


class ProgressiveSchedule:
    """Moves every target's camera from its nearest training camera to the target, a small step each round.

    A round moves by ``step_fraction`` times the training cameras' own spacing (median distance, and angle, between
    nearest neighbours), whichever of translation and rotation takes longer; both advance together along one
    ``u``. So the ``u`` of every round is the same at any scale of the scene. Where photos stand close together that
    would not get far: a round moves further if a target would not be reached within the first half of the rounds.
    After arrival a target is visited again in every round, which refreshes its repair.

    Args:
        train: training cameras, batches of one; at least one.
        targets: wanted cameras, batches of one; sizes and intrinsics may differ.
        steps: training steps of the rounds, ascending; at least one, none after ``last_step``.
        last_step: last training step of the run; trust in repairs has fallen to 0 there.
        step_fraction: usual size of a round's move in units of the training cameras' spacing. Without a spacing (one
            camera, or all in one place) it is the fraction of the whole way.

    Raises:
        InputError: on broken poses of the targets.
    """

    def __init__(
        self, train: list[Cameras], targets: list[Cameras], steps: Sequence[int], last_step: int, step_fraction: float
    ) -> None:
        check_poses(torch.cat([c.camera_to_world for c in targets]), [f"target {i}" for i in range(len(targets))])
        self.steps, self.last_step = steps, last_step
        self.approaches = _plan(train, targets, step_fraction, slowest=1 / max(1, int(ARRIVAL * len(steps))))
        self.rounds = 0  # done so far
        self._last_round: int | None = None

    def due(self, step: int) -> bool:
        """Whether a round should run at this training step: one is planned for it, or was missed since the last."""
        done = 0 if self._last_round is None else bisect_right(self.steps, self._last_round)
        return step <= self.last_step and bisect_right(self.steps, step) > done

    def remaining(self, step: int) -> float:
        """How much of the rounds' time is left: 1 until the first, falling linearly to 0 at the last step."""
        left, whole = self.last_step - step, max(1, self.last_step - self.steps[0])
        return min(1.0, max(0.0, left / whole))

    def upcoming(self) -> list[Cameras]:
        """The cameras of the next round, one batch of one for each target, without advancing."""
        return [approach.camera(self.rounds + 1) for approach in self.approaches]

    def upcoming_position(self) -> float:
        """``u`` of the next round, averaged over the targets."""
        return sum(approach.position(self.rounds + 1) for approach in self.approaches) / len(self.approaches)

    def advance(self, step: int) -> None:
        """Count a round at this training step."""
        self.rounds, self._last_round = self.rounds + 1, step

    def skip(self, step: int) -> None:
        """Let a round at this training step pass: no camera has moved, and the next one is due when it was planned."""
        self._last_round = step

    def state_dict(self) -> dict[str, Any]:
        """Position along the way, as plain integers (the way itself follows from the constructor)."""
        return {"rounds": self.rounds, "last_step": -1 if self._last_round is None else self._last_round}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken."""
        self.rounds = int(state["rounds"])
        self._last_round = None if state["last_step"] < 0 else int(state["last_step"])


def _plan(train: list[Cameras], targets: list[Cameras], step_fraction: float, slowest: float) -> list[Approach]:
    """The way from the nearest training camera to each target, in rounds of at least the ``slowest`` stride."""
    poses = torch.cat([c.camera_to_world for c in train]).cpu()
    distance_spacing, angle_spacing = nearest_spacing(poses)
    angle_spacing = max(angle_spacing, MIN_ROTATION_SPACING)
    approaches = []
    for target in (t.to("cpu") for t in targets):
        spacings = _spacings_to(poses, target, distance_spacing, angle_spacing)
        nearest = int(spacings.argmin())
        way = 1.0 if distance_spacing == 0 else float(spacings[nearest])
        stride = 1.0 if way <= step_fraction else max(step_fraction / way, slowest)
        start = cover_cameras(train[nearest].to("cpu"), target.width, target.height)
        approaches.append(Approach(start, target, stride))
    return approaches


def _spacings_to(poses: torch.Tensor, target: Cameras, distance_spacing: float, angle_spacing: float) -> torch.Tensor:
    """How many spacings away the target is from each training pose, in translation or rotation, whichever is more."""
    pose = target.camera_to_world[0].double()
    distances = (poses[:, :3, 3].double() - pose[:3, 3]).norm(dim=-1)
    angles = rotation_angle(poses[:, :3, :3].double(), pose[:3, :3].expand(len(poses), 3, 3)) / angle_spacing
    if distance_spacing == 0:
        return distances / distances.max().clamp(min=torch.finfo(distances.dtype).tiny) + angles
    return torch.maximum(distances / distance_spacing, angles)
