# SPDX-License-Identifier: Apache-2.0
"""Training of the built-in network from pairs with depth, cameras and references."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.builtin.enhancer import ARCHITECTURE, gather_inputs
from harmonizer_ns.enhancers.builtin.inputs import BuiltinInputs
from harmonizer_ns.enhancers.builtin.network import ChoiceNetwork
from harmonizer_ns.enhancers.checkpoint import Checkpoint, save_checkpoint
from harmonizer_ns.training.batch import PairBatch, unknown_geometry
from harmonizer_ns.training.builtin.losses import LossConfig as OwnLossConfig
from harmonizer_ns.training.builtin.losses import total_loss
from harmonizer_ns.training.builtin.samples import REFERENCES, Batch, good_pixels
from harmonizer_ns.training.config import ScheduleConfig, TemporalConfig
from harmonizer_ns.training.context import Images, roll_out
from harmonizer_ns.training.criterion import Criterion
from harmonizer_ns.training.scoring import validated
from harmonizer_ns.training.trainee import Parts, Pictures, Validation
from harmonizer_ns.types import Cameras, Frames


class ChoiceTrainee:
    """The built-in network, with its own losses and those of the criterion on top.

    Args:
        network: on its device.
        criterion: further losses.
        temporal: whether it sees the warped previous output in clips.
        schedule: of the run; the network's guidance fades along it.
    """

    def __init__(
        self,
        network: ChoiceNetwork,
        criterion: Criterion,
        temporal: TemporalConfig,
        schedule: ScheduleConfig,
    ) -> None:
        self.network, self.criterion = network.train(), criterion
        self.temporal, self.schedule = temporal, schedule

    def loss(self, network: nn.Module, batch: PairBatch, step: int) -> tuple[Float[Tensor, ""], Parts]:
        """All losses of single views, or of the last frames of clips with the frame before as a candidate."""
        batch = batch.to(next(self.network.parameters()).device)
        view, before, previous = batch, None, None
        if batch.frames is not None:
            view, before, previous = batch.frame(-1), batch.frame(-2), self._rolled_out(batch)
        inputs = choice_inputs(view, before, previous, drop=True)
        choice = network(inputs)
        truth = Batch(inputs, view.target, good_pixels(view.image, view.target))
        own = total_loss(choice, truth, OwnLossConfig(), step / self.schedule.max_steps)
        others, parts = self.criterion(choice.rgb.float(), view, step, before, previous)
        return own + others, {"choice": own.detach(), **parts}

    def _rolled_out(self, clip: PairBatch) -> Images:
        """What the network makes of the last frame but one."""

        def repair(index: int, context: list[Images]) -> Images:
            before, previous = (clip.frame(index - 1), context[0]) if context else (None, None)
            return self.network(choice_inputs(clip.frame(index), before, previous)).rgb

        return roll_out(self.network, repair, clip, length=1, truth=self.temporal.truth)[0]

    def validate(self, batches: list[PairBatch], step: int) -> Validation:
        """Metrics and pictures of single views."""
        return validated([view for batch in batches for view in self._pictures(batch)], self.criterion.distance)

    def _pictures(self, batch: PairBatch) -> list[Pictures]:
        outputs = self.network(choice_inputs(batch.to(next(self.network.parameters()).device))).rgb
        references = [None] * len(batch) if batch.references is None else list(batch.references[:, 0])
        parts = (batch.names, batch.image, outputs.float().clamp(0, 1).cpu(), batch.target, references)
        return [Pictures(*view) for view in zip(*parts, strict=True)]

    def export(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Write an enhancer folder."""
        weights = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
        save_checkpoint(folder, Checkpoint(ARCHITECTURE, self.network.config, weights, metadata))


def choice_inputs(
    view: PairBatch, before: PairBatch | None = None, previous: Images | None = None, drop: bool = False
) -> BuiltinInputs:
    """References, and what was made of the frames before, warped into the views.

    Args:
        view: with geometry.
        before: the frames before.
        previous: their repaired colours.
        drop: show some of the references only, to every second item.
    """
    history = None if before is None or previous is None else frames_of(before, previous)
    references = tuple(references_of(view, i, drop) for i in range(len(view)))
    return gather_inputs(frames_of(view, view.image), Context(references, history), REFERENCES)


def frames_of(view: PairBatch, rgb: Images) -> Frames:
    """Views with these colours; depth is 0, unknown, where pairs have none."""
    geometry = view.geometry or unknown_geometry(view)
    return Frames(rgb, geometry.alpha, geometry.depth, geometry.cameras())


def references_of(view: PairBatch, item: int, drop: bool = False) -> Frames | None:
    """The photos of one item; all of them, or a random number of them for half of the items."""
    if view.references is None:
        return None
    geometry, photos = view.geometry or unknown_geometry(view), view.references[item]
    chance = random.Random(f"{view.seeds[item]}/references")
    count = len(photos)
    if drop and chance.random() < 0.5:
        count = chance.randint(0, count)
    height, width = photos.shape[-2:]
    cameras = Cameras(geometry.reference_camera_to_world[item], geometry.reference_intrinsics[item], width, height)
    depth = geometry.reference_depth[item]
    return Frames(photos, torch.ones_like(depth), depth, cameras)[slice(0, count)]
