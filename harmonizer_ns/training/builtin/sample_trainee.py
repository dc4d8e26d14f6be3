# SPDX-License-Identifier: Apache-2.0
"""The built-in network and sample files as the training loop wants them."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.builtin.enhancer import ARCHITECTURE, build_network
from harmonizer_ns.enhancers.builtin.inputs import BuiltinInputs
from harmonizer_ns.enhancers.builtin.network import ChoiceNetwork
from harmonizer_ns.enhancers.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from harmonizer_ns.training.builtin.augment import random_batch
from harmonizer_ns.training.builtin.losses import total_loss
from harmonizer_ns.training.builtin.samples import Batch, Sample
from harmonizer_ns.training.builtin.validation import score, table, validate
from harmonizer_ns.training.journal import read_log
from harmonizer_ns.training.trainee import Parts, Validation

if TYPE_CHECKING:
    from harmonizer_ns.training.builtin.train import BuiltinTrainingConfig

RUN = "run"
"""Folder below the output folder with what an interrupted run needs to go on."""


class SampleData:
    """Random crops of samples; see `trainee.Data`."""

    def __init__(self, config: BuiltinTrainingConfig, samples: list[Sample]) -> None:
        self._config, self._samples = config, samples

    def batch(self, step: int, micro: int) -> Batch:
        """Augmented crops."""
        config = self._config
        return random_batch(self._samples, config.batch, config.augment, random.Random(f"{config.seed}/{step}"))

    def validation(self) -> list[Batch]:
        """None: the trainee holds its own views back."""
        return []

    def fingerprint(self) -> str:
        """Of the scenes and numbers of samples."""
        return json.dumps(Counter(f"{sample.scene}/{sample.recipe}" for sample in self._samples), sort_keys=True)


class SampleTrainee:
    """The network on samples. Validating, it saves the checkpoint that is the best so far.

    Args:
        config: of the run.
        training: what it learns from, for the checkpoint's metadata.
        held_out: what it is validated on.
    """

    def __init__(self, config: BuiltinTrainingConfig, training: list[Sample], held_out: list[Sample]) -> None:
        self.config, self.held_out = config, held_out
        self.scenes = sorted({sample.scene for sample in training})
        self.network, self.stages = _initial_network(config)
        earlier = [entry["test/score"] for entry in read_log(config.output / RUN) if "test/score" in entry]
        self._best = max(earlier, default=-math.inf) if config.resume else -math.inf

    def loss(self, network: torch.nn.Module, batch: Batch, step: int) -> tuple[Float[Tensor, ""], Parts]:
        """The built-in network's own losses."""
        batch = _to_device(batch, next(self.network.parameters()).device)
        return total_loss(network(batch.inputs), batch, self.config.loss, step / self.config.steps), {}

    def validate(self, batches: list[Batch], step: int) -> Validation:
        """Figures of the held-out views; the checkpoint is saved when they are the best so far."""
        on_cpu = ChoiceNetwork(**self.network.config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        on_cpu.load_state_dict(self.network.state_dict())
        found = validate(on_cpu, self.held_out)
        print(f"--- step {step}\n{table(found)}", flush=True)
        figures = {**found["mean"], "score": score(found["mean"])}
        if figures["score"] > self._best:
            self._best = figures["score"]
            self._save(on_cpu, self.config.output, step)
        return Validation(figures, [])

    def export(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Write the last weights, which need not be the best."""
        self._save(self.network, folder, self.config.steps)

    def _save(self, network: ChoiceNetwork, folder: Path, step: int) -> None:
        metadata = {
            "licence": "Apache-2.0",
            "data": self.config.data,
            "training_scenes": self.scenes,
            "stages": [*self.stages, {"steps": step, "config": _plain(self.config)}],
        }
        save_checkpoint(folder, Checkpoint(ARCHITECTURE, network.config, network.state_dict(), metadata))


def _to_device(batch: Batch, device: torch.device | str) -> Batch:
    inputs = BuiltinInputs(*(getattr(batch.inputs, f.name).to(device) for f in fields(BuiltinInputs)))
    return Batch(inputs, batch.target.to(device), batch.good.to(device))


def _initial_network(config: BuiltinTrainingConfig) -> tuple[ChoiceNetwork, list[dict]]:
    """The network to train, and the training that it has had."""
    network, stages = ChoiceNetwork(), []
    if config.initial is not None:
        checkpoint = load_checkpoint(config.initial)
        network, stages = build_network(checkpoint), checkpoint.metadata.get("stages", [])
        network.bias_when_shown = network.bias_when_learned = 0.0
    return network.train().to(memory_format=torch.channels_last), stages  # type: ignore[call-overload]


def _plain(config: BuiltinTrainingConfig) -> dict:
    """The configuration as JSON values; local paths stay out of the checkpoint."""
    values = asdict(config)
    for name in ("samples", "pairs", "output", "initial", "resume"):
        del values[name]
    return values
