# SPDX-License-Identifier: Apache-2.0
"""Each loss, minimised through the whole loop on a handful of pairs, falls to next to nothing."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from clip_toys import HEIGHT, WIDTH, write_clip
from torch import nn
from torch.nn import functional as F
from torchvision.models import squeezenet1_1

from harmonizer_ns.training.config import (
    DataConfig,
    LossConfig,
    OneStepConfig,
    OptimizerConfig,
    SavingConfig,
    ScheduleConfig,
    TemporalConfig,
)
from harmonizer_ns.training.criterion import Criterion
from harmonizer_ns.training.journal import curves, read_log
from harmonizer_ns.training.loop import Run
from harmonizer_ns.training.one_step import OneStepTrainee
from harmonizer_ns.training.pairs_data.draws import PairsData


class Memory(nn.Module):
    """A one-step network that can learn a correction of its own for every image and context that it has seen."""

    multiple, max_references, max_context = 1, 0, 2

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.recall = nn.Sequential(nn.Linear(3 * 72, 64), nn.Tanh())
        self.correction = nn.Linear(64, 3 * HEIGHT * WIDTH)
        nn.init.zeros_(self.correction.weight)

    def forward(self, image, references=None, context=None):
        seen = image.new_zeros(len(image), 2, *image.shape[1:]) if context is None else context
        small = F.adaptive_avg_pool2d(torch.cat([image[:, None], seen], dim=1).flatten(1, 2), (4, 6))
        return image + self.correction(self.recall(small.flatten(1))).view_as(image)


def fit(
    folder: Path, pairs: Path, loss: LossConfig, steps: int, rate: float = 1e-2, context: int = 0
) -> dict[str, list[float]]:
    """Curves of every term."""
    config = OneStepConfig(
        pairs=(pairs,),
        output=folder,
        model="",
        precision="fp32",
        device="cpu",
        data=DataConfig(height=HEIGHT, width=WIDTH, batch=4, workers=0, zoom=1.0, flip=False, references=0),
        optimizer=OptimizerConfig(learning_rate=rate, weight_decay=0.0),
        schedule=ScheduleConfig(max_steps=steps, warm_up=5, decay="cosine"),
        loss=loss,
        temporal=TemporalConfig(context=context, clip=3),
        saving=SavingConfig(every=1000, validate_every=1000, log_every=1, tracker="none"),
    )
    trainee = OneStepTrainee(Memory(), Criterion(loss), config.temporal)
    trainee.export = lambda folder, metadata: None
    Run(config, trainee, PairsData(config, multiple=1), Accelerator(cpu=True)).train()
    found = curves(read_log(folder), ("l1", "l2", "lpips", "gram", "patches", "preserve", "temporal"))
    return {name: [value for _, value in points] for name, points in found.items()}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("pairs"), frames=4, tests=0)


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "steps", "rate", "reached"),
    [
        ("l1", 60, 1e-2, 5e-3),
        ("l2", 60, 1e-2, 1e-4),
        ("lpips", 60, 4e-3, 6e-3),
        ("gram", 40, 1e-2, 3e-6),  # layers are weighed for trained networks, whose activations are large
        ("patches", 40, 4e-3, 0.035),
    ],
)
def test_each_loss_falls_to_next_to_nothing(tmp_path, pairs, squeezenet, name, steps, rate, reached):
    found = fit(tmp_path, pairs, LossConfig(**{name: 1.0}, net="squeeze", backbone=squeezenet), steps, rate)
    assert list(found) == [name]
    assert found[name][0] > 2 * reached
    assert found[name][-1] < reached


def test_the_temporal_loss_falls_on_a_moving_clip(tmp_path, pairs):
    """Damage flickers, so the untrained network's outputs do too; the scene moves by two pixels a frame."""
    found = fit(tmp_path, pairs, LossConfig(l2=1.0, temporal=1.0), 150, context=2)
    assert len(found["temporal"]) == 75
    assert found["temporal"][0] > 5e-3
    assert found["temporal"][-1] < 2e-4
    assert found["l2"][-1] < 5e-4
