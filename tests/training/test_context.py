# SPDX-License-Identifier: Apache-2.0
"""Context in training: whose outputs are seen when."""

import pytest
import torch
from torch import nn

from harmonizer_ns.training.config import LossConfig, TemporalConfig
from harmonizer_ns.training.criterion import Criterion
from harmonizer_ns.training.one_step import OneStepTrainee
from harmonizer_ns.training.pairs_data.batch import PairBatch
from harmonizer_ns.training.pairs_data.draws import clip_steps, shows_context


def clip(frames: int = 6, items: int = 40) -> PairBatch:
    """Frame t is t / 100, its truth t / 100 + 1/2."""
    image = (torch.arange(frames) / 100)[None, :, None, None, None].expand(items, frames, 3, 4, 4)
    depth, eyes = 0 * image[:, :, :1], [torch.eye(side).expand(items, frames, side, side) for side in (4, 3)]
    return PairBatch(("x",) * items, tuple(range(items)), image, image + 0.5, depth, *eyes)


class Recorder(nn.Module):
    """A one-step network that changes nothing, and remembers the contexts that it was shown."""

    max_references = 0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.contexts = []
        self.learning = []

    def forward(self, image, references=None, context=None):
        self.contexts.append([] if context is None else list(context.unbind(1)))
        self.learning.append((self.training, torch.is_grad_enabled()))
        return image + 0 * self.weight


def rolled(truth: float, frames: int = 6, length: int = 4):
    """The context of the last frame, and of each frame before it the numbers of the frames that it saw."""
    network = Recorder()
    trainee = OneStepTrainee(network, Criterion(LossConfig(l2=1.0)), TemporalConfig(length, clip=frames, truth=truth))
    trainee.loss(network, clip(frames), step=1)
    assert network.learning == [(False, False)] * (frames - 1) + [(True, True)]
    *before, history = [[output / 2 + 0.5 for output in context] for context in network.contexts]
    return history, [[round(100 * float(output[0, 0, 0, 0])) for output in context] for context in before]


def test_context_is_the_networks_own_outputs_newest_first():
    history, seen = rolled(truth=0.0, frames=7)
    assert seen == [[], [], [], [], [3, 2, 1, 0], [4, 3, 2, 1]]
    assert [round(100 * float(output.mean())) for output in history] == [5, 4, 3, 2]
    assert not any(output.requires_grad for output in history)


def test_some_of_it_is_the_truth():
    history, _ = rolled(truth=0.25)
    share = torch.stack([output[:, 0, 0, 0] > 0.4 for output in history]).float().mean()
    assert 0.1 < float(share) < 0.4
    assert all(bool((output > 0.4).all()) for output in rolled(truth=1.0)[0])
    again, _ = rolled(truth=0.25)
    assert all(torch.equal(a, b) for a, b in zip(history, again, strict=True))


@pytest.mark.parametrize("config", [TemporalConfig(4, every=2), TemporalConfig(4, every=3, start=5), TemporalConfig(0)])
def test_clips_and_single_views_are_each_counted_without_gaps(config):
    shown = [shows_context(step, config) for step in range(1, 30)]
    assert [clip_steps(step, config) for step in range(1, 30)] == [sum(shown[:step]) for step in range(1, 30)]
    assert not any(shown[: config.start])
