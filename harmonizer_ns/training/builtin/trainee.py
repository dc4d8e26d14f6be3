# SPDX-License-Identifier: Apache-2.0
"""This module is the built-in network as the training loop trains it, and as it becomes an enhancer folder."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harmonizer_ns.enhancers.builtin.enhancer import BuiltinEnhancer
from harmonizer_ns.enhancers.builtin.network import BuiltinNetwork
from harmonizer_ns.files import read_json
from harmonizer_ns.training.builtin.calibration import calibrate
from harmonizer_ns.training.builtin.card import table, write_card
from harmonizer_ns.training.builtin.config import BuiltinConfig
from harmonizer_ns.training.builtin.data import BuiltinData
from harmonizer_ns.training.builtin.losses import total_loss
from harmonizer_ns.training.builtin.validation import CONDITIONS, means, score, validate
from harmonizer_ns.training.builtin.views import Batch, WarpedView
from harmonizer_ns.training.criterion import Criterion
from harmonizer_ns.training.journal import curves, read_log
from harmonizer_ns.training.trainee import Parts, Validation

logger = logging.getLogger(__name__)

BEST = "best"
"""Folder below the run's with the best weights so far: an enhancer folder, not calibrated yet."""
_CURVES = {"loss": "loss", "test/psnr": "output, held-out PSNR in dB", "test/good": "good half, PSNR in dB"}


def initial_network(config: BuiltinConfig) -> tuple[BuiltinNetwork, list[dict[str, Any]]]:
    """Load the network that a run starts from, on the CPU and not calibrated, and the training that it has had.

    Raises:
        InputError: when there is no such checkpoint or architecture.
    """
    torch.manual_seed(config.seed)  # of new weights
    if config.model == "new":
        return BuiltinNetwork(), []
    if Path(config.model).suffix == ".json":
        return BuiltinNetwork.from_config(read_json(Path(config.model))), []
    enhancer = BuiltinEnhancer.from_pretrained(None if config.model == "builtin" else config.model)
    enhancer.network.bias_when_shown = enhancer.network.bias_when_learned = 0.0
    return enhancer.network, enhancer.metadata.get("stages", [])


class BuiltinTrainee:
    """Trains the built-in network. Validating, it keeps the best weights aside; these are calibrated and exported.

    Args:
        network: on its device.
        stages: the training that it has had, for the model card.
        config: of the run.
        criterion: losses besides its own.
        data: what it learns from, for the model card, and all views that are held out.
    """

    def __init__(
        self,
        network: BuiltinNetwork,
        stages: list[dict[str, Any]],
        config: BuiltinConfig,
        criterion: Criterion,
        data: BuiltinData,
    ) -> None:
        self.network, self.stages = network.train(), stages
        self.config, self.criterion, self.data = config, criterion, data
        self._best = -math.inf
        self._continues = config.resume

    def loss(self, network: nn.Module, batch: Batch, step: int) -> tuple[Float[Tensor, ""], Parts]:
        """Add the network's own losses and those of the criterion."""
        batch = batch.to(next(self.network.parameters()).device)
        choice = network(batch.inputs)
        own = total_loss(choice, batch, self.config.choice_loss, step / self.config.schedule.max_steps)
        others, parts = self.criterion(choice.rgb.float(), batch.inputs.render, batch.target, batch.seeds, step)
        return own + others, {"own": own.detach(), **parts}

    def validate(self, batches: list[WarpedView], step: int) -> Validation:
        """Measure held-out views; the weights are kept aside when these are the best so far."""
        enhancer = self._enhancer()
        measured = validate(enhancer, batches)
        figures = means(measured)["mean"]
        figures["score"] = score(figures)
        self._recall_best(step)
        if figures["score"] > self._best:
            self._best = figures["score"]
            enhancer.metadata = {"step": step, "score": self._best}
            enhancer.save(self.config.output / BEST)
        return Validation(figures, [view.pictures for view in measured])

    def _enhancer(self) -> BuiltinEnhancer:
        """Copy the network in full precision; the network itself may be wrapped for less."""
        network = BuiltinNetwork(**self.network.config).to(next(self.network.parameters()).device)
        network.load_state_dict(self.network.state_dict())
        return BuiltinEnhancer(network)

    def _recall_best(self, step: int) -> None:
        """Read a continued run's best score at its first validation; steps after its checkpoint come again."""
        if self._continues and (self.config.output / BEST).is_dir():
            kept = BuiltinEnhancer.from_pretrained(self.config.output / BEST).metadata
            self._best = kept["score"] if kept["step"] < step else -math.inf
        self._continues = False

    def export(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Calibrate the best weights, and write them as an enhancer folder with model card, figures and curves."""
        enhancer = BuiltinEnhancer.from_pretrained(self.config.output / BEST)
        enhancer.to(next(self.network.parameters()).device)
        calibrate(enhancer, self.data.validation(), self.config.tolerated_loss)
        stage = {"steps": enhancer.metadata["step"], "config": metadata["training"]["config"]}
        enhancer.metadata = {
            "licence": "Apache-2.0",
            "data": self.config.data_note,
            "training_scenes": self.data.scenes,
            "stages": [*self.stages, stage],
        }
        enhancer.save(folder)
        write_card(folder, self._report(enhancer))

    def _report(self, enhancer: BuiltinEnhancer) -> dict[str, Any]:
        """Tell what is known of the exported network, measured on all views that are held out; JSON values."""
        measured = {name: validate(enhancer, self.data.held_out(), shown) for name, shown in CONDITIONS.items()}
        figures = {name: means(views) for name, views in measured.items()}
        logger.info("held-out views, in dB\n%s", table("scene", figures["references"]))
        drawn = curves(read_log(self.config.output), tuple(_CURVES))
        return {
            **enhancer.metadata,
            "parameters": sum(value.numel() for value in enhancer.network.parameters()),
            "training_views": self.data.count,
            "held_out_views": len(measured["references"]),
            "bias_when_shown": enhancer.network.bias_when_shown,
            "bias_when_learned": enhancer.network.bias_when_learned,
            "figures": figures,
            "by_damage": means(measured["references"], "stream"),
            "curves": {_CURVES[name]: points for name, points in drawn.items()},
        }
