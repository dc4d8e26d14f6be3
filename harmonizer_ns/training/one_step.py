# SPDX-License-Identifier: Apache-2.0
"""This module trains the one-step diffusion networks (Difix, Cosmos), on single views and on clips."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harmonizer_ns.enhancers.checkpoint import Checkpoint, save_checkpoint
from harmonizer_ns.enhancers.lora import merged
from harmonizer_ns.enhancers.one_step import OneStepNetwork
from harmonizer_ns.training.config import TemporalConfig
from harmonizer_ns.training.criterion import Criterion, Images
from harmonizer_ns.training.models import export_difix
from harmonizer_ns.training.pairs_data.batch import PairBatch
from harmonizer_ns.training.trainee import Parts, Pictures, Validation, validated


class OneStepTrainee:
    """Trains a network that repairs images in one step, with references or context as it takes them.

    Args:
        network: on its device.
        criterion: the losses, on the same device.
        temporal: what context it sees in training.
        difix_checkpoint: export a ``model_*.pkl`` too.
    """

    def __init__(
        self,
        network: OneStepNetwork,
        criterion: Criterion,
        temporal: TemporalConfig,
        difix_checkpoint: bool = False,
    ) -> None:
        self.network, self.criterion, self.temporal = network.train(), criterion, temporal
        self.difix_checkpoint = difix_checkpoint

    def loss(self, network: nn.Module, batch: PairBatch, step: int) -> tuple[Float[Tensor, ""], Parts]:
        """Judge single views, or the last frames of clips with the frames before as context."""
        batch = batch.to(next(self.network.parameters()).device)
        if batch.frames is None:
            output = self._repair(network, batch, []).float()
            return self.criterion(output, batch.image, batch.target, batch.seeds, step)
        history, view = self._roll_out(batch), batch.frame(-1)
        output = self._repair(network, view, history).float()
        return self.criterion(output, view.image, view.target, view.seeds, step, batch, history[0])

    def _roll_out(self, clip: PairBatch) -> list[Images]:
        """Make the context of a clip's last frame: outputs of the frames before it, newest first, without gradients.

        Frames are repaired in their order, each with the outputs of the K frames before it; the first ones, which have
        fewer, without any, as streams begin.
        """
        length, history = self.temporal.context, []
        self.network.eval()
        with torch.no_grad():
            for index in range((clip.frames or 0) - 1):
                view = clip.frame(index)
                output = self._repair(self.network, view, history if len(history) == length else []).float().clamp(0, 1)
                history = [self._mixed(output, view, index), *history][:length]
        self.network.train()
        return history

    def _mixed(self, output: Images, view: PairBatch, index: int) -> Images:
        """Replace some outputs by the truth; which ones depends on the item, not on how items are batched."""
        chosen = [random.Random(f"{seed}/truth/{index}").random() < self.temporal.truth for seed in view.seeds]
        return torch.where(torch.tensor(chosen, device=output.device)[:, None, None, None], view.target, output)

    def _repair(self, network: nn.Module, view: PairBatch, context: list[Images]) -> Images:
        """Run the network, whose colours are in [-1, 1], on colours in [0, 1]."""
        references = view.references if self.network.max_references else None
        output = network(
            view.image * 2 - 1,
            references=None if references is None else references * 2 - 1,
            context=torch.stack(context, dim=1) * 2 - 1 if context else None,
        )
        return output / 2 + 0.5

    def validate(self, batches: list[PairBatch], step: int) -> Validation:
        """Measure single views, and keep their pictures."""
        return validated([view for batch in batches for view in self._pictures(batch)], self.criterion.distance)

    def _pictures(self, batch: PairBatch) -> list[Pictures]:
        on_device = batch.to(next(self.network.parameters()).device)
        outputs = self._repair(self.network, on_device, []).float().clamp(0, 1).cpu()
        references = [None] * len(batch) if batch.references is None else list(batch.references[:, 0])
        return [Pictures(*parts) for parts in zip(batch.image, outputs, batch.target, references, strict=True)]

    def export(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Write an enhancer folder, adapters merged into the weights, and a file for Difix's own code if asked for."""
        network = self.network
        weights = merged(network.state_dict())
        save_checkpoint(folder, Checkpoint(network.architecture, network.config, weights, metadata))
        if self.difix_checkpoint:
            export_difix(self.network, folder.parent / f"model_{metadata['training']['steps']}.pkl")
