# SPDX-License-Identifier: Apache-2.0
"""A network of a few weights and pairs out of a formula, for tests of the training loop itself."""

import json
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from harmonizer_ns.training.config import (
    DataConfig,
    OneStepConfig,
    OptimizerConfig,
    SavingConfig,
    ScheduleConfig,
)
from harmonizer_ns.training.loop import Run
from harmonizer_ns.training.trainee import Pictures, validated


class ToyTrainee:
    """Learns to brighten: one 3x3 convolution behind dropout, and a frozen one before."""

    def __init__(self, seed: int = 0, dropout: float = 0.0) -> None:
        torch.manual_seed(seed)
        self.network = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False), nn.Dropout(dropout), nn.Conv2d(4, 3, 3, padding=1)
        )
        self.exported = 0

    def loss(self, network, batch, step):
        render, target = batch
        loss = F.mse_loss(network(render), target)
        return loss, {"l2": loss.detach()}

    def validate(self, batches, step):
        renders, targets = batches[0]
        outputs = self.network(renders).clamp(0, 1)
        return validated([Pictures(*views, None) for views in zip(renders, outputs, targets, strict=True)])

    def export(self, folder: Path, metadata: dict) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(metadata))
        self.exported += 1


class ToyData:
    """Pair number i of a step is a function of seed, step and i, whatever the number of processes."""

    def __init__(self, batch: int = 2, accumulation: int = 1, rank: int = 0, processes: int = 1, seed: int = 0) -> None:
        self.size, self.accumulation, self.rank, self.processes, self.seed = batch, accumulation, rank, processes, seed

    def batch(self, step: int, micro: int):
        first = (micro * self.processes + self.rank) * self.size
        return self._pairs([(step, first + i) for i in range(self.size)])

    def _pairs(self, indices):
        generators = [torch.Generator().manual_seed(1000 * step + i + self.seed) for step, i in indices]
        renders = torch.stack([torch.rand(3, 16, 16, generator=g) for g in generators])
        return renders, (renders * 1.2).clamp(0, 1)

    def validation(self):
        return [self._pairs([(999, 0), (999, 1)])]

    def fingerprint(self) -> str:
        return f"toy {self.seed}"


def toy_config(output: Path, **groups) -> OneStepConfig:
    """Ten steps, a log entry each; groups given replace the defaults."""
    values = {
        "precision": "fp32",
        "device": "cpu",
        "preset": "toy",
        "data": DataConfig(batch=2, workers=0),
        "optimizer": OptimizerConfig(learning_rate=1e-2, average=0.9),
        "schedule": ScheduleConfig(max_steps=10, warm_up=4, decay="linear"),
        "saving": SavingConfig(every=5, validate_every=10, log_every=1, tracker="none"),
    }
    return OneStepConfig(pairs=(), output=output, model="", **{**values, **groups})


def toy_run(config: OneStepConfig, trainee=None, data=None) -> tuple[Run, ToyTrainee]:
    """A run of the toy, ready to train."""
    trainee = trainee or ToyTrainee()
    return Run(config, trainee, data or ToyData(config.data.batch), Accelerator(cpu=True)), trainee
