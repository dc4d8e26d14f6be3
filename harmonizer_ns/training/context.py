# SPDX-License-Identifier: Apache-2.0
"""Context for temporal training: the network's own outputs along a clip, as it will see them in use."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harmonizer_ns.training.pairs_data.batch import PairBatch

Images = Float[Tensor, "b 3 h w"]
Repair = Callable[[int, list[Images]], Images]
"""Of the number of a frame in its clip and of its context (newest first, maybe empty): the repaired frame."""


def roll_out(network: nn.Module, repair: Repair, clip: PairBatch, length: int, truth: float) -> list[Images]:
    """The context of a clip's last frame: outputs of the frames before it, newest first, without gradients.

    Frames are repaired in their order, each with the outputs of the ``length`` frames before it; the first ones, which
    have fewer, without any, as streams begin.

    Args:
        network: is put into evaluation mode for as long as this takes.
        repair: runs it.
        clip: of more than ``length`` frames.
        length: K, outputs that are looked at.
        truth: probability with which a frame of the context is replaced by the true frame.
    """
    history: list[Images] = []
    network.eval()
    with torch.no_grad():
        for index in range((clip.frames or 0) - 1):
            output = repair(index, history if len(history) == length else []).float().clamp(0, 1)
            history = [_mixed(output, clip.frame(index), index, truth), *history][:length]
    network.train()
    return history


def _mixed(output: Images, view: PairBatch, index: int, truth: float) -> Images:
    """Some outputs replaced by the truth; which ones depends on the item, not on how items are batched."""
    chosen = [random.Random(f"{seed}/truth/{index}").random() < truth for seed in view.seeds]
    return torch.where(torch.tensor(chosen, device=output.device)[:, None, None, None], view.target, output)
