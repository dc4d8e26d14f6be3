# SPDX-License-Identifier: Apache-2.0
"""This module varies training crops: which candidates are seen, how clean the render is, colours, flips."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.builtin.inputs import CUE_STRIDE
from harmonizer_ns.training.builtin.config import AugmentConfig
from harmonizer_ns.training.builtin.views import Batch, WarpedView, show
from harmonizer_ns.training.config import DataConfig


def random_crop(view: WarpedView, data: DataConfig, config: AugmentConfig, chance: random.Random) -> Batch:
    """Cut and vary one crop, as a batch of one.

    Args:
        view: not smaller than the crop.
        data: size of the crop, how many references may be shown, and whether some crops are mirrored, and square ones
            turned.
        config: how crops are varied.
        chance: draws.
    """
    rows, columns = view.render.shape[-2:]
    window = (_random_slice(rows, data.height, chance), _random_slice(columns, data.width, chance))
    shown = _random_references(min(data.references, len(view.warps)), config, chance)
    previous = chance.random() if chance.random() < config.show_previous else None
    batch = show(view, shown, previous, window, chance.getrandbits(63))
    inputs = replace(batch.inputs, render=_cleaned(batch, config, chance), warps=_exposed(batch, config, chance))
    batch = _jittered(replace(batch, inputs=inputs), config, chance)
    return _flipped(batch, chance) if data.flip else batch


def _random_slice(side: int, crop: int, chance: random.Random) -> slice:
    start = chance.randint(0, (side - crop) // CUE_STRIDE) * CUE_STRIDE
    return slice(start, start + crop)


def _random_references(count: int, config: AugmentConfig, chance: random.Random) -> list[int]:
    kept = chance.randint(0, count) if chance.random() < config.drop_references else count
    return chance.sample(range(count), kept)


def _cleaned(batch: Batch, config: AugmentConfig, chance: random.Random) -> Float[Tensor, "1 3 h w"]:
    """Choose the render, or the truth, or something between."""
    draw = chance.random()
    if draw < config.clean:
        return batch.target
    if draw < config.clean + config.near_clean:
        return torch.lerp(batch.target, batch.inputs.render, chance.uniform(0.2, 1))
    return batch.inputs.render


def _exposed(batch: Batch, config: AugmentConfig, chance: random.Random) -> Float[Tensor, "1 k 3 h w"]:
    """Give some candidates a brightness of their own."""
    warps = batch.inputs.warps
    gains = [chance.uniform(0.9, 1.1) if chance.random() < config.exposure else 1.0 for _ in warps[0]]
    return (warps * torch.tensor(gains)[:, None, None, None]).clamp(0, 1)


def _jittered(batch: Batch, config: AugmentConfig, chance: random.Random) -> Batch:
    """Compute ``(gain x)^gamma`` with colours in random order, the same for all images."""
    gain = torch.tensor([chance.uniform(1 - config.jitter, 1.0) for _ in range(3)])[:, None, None]
    gamma = chance.uniform(1 - config.jitter, 1 + config.jitter)
    order = chance.sample(range(3), 3)

    def jittered(colours: Float[Tensor, "*batch 3 h w"]) -> Float[Tensor, "*batch 3 h w"]:
        return (colours[..., order, :, :] * gain) ** gamma

    inputs = replace(batch.inputs, render=jittered(batch.inputs.render), warps=jittered(batch.inputs.warps))
    return replace(batch, inputs=inputs, target=jittered(batch.target))


def _flipped(batch: Batch, chance: random.Random) -> Batch:
    """Mirror, or swap rows and columns where these are as many, each half of the time. Cues only move along."""
    if chance.random() < 0.5:
        batch = batch.changed(lambda picture: picture.flip(-1))
    if chance.random() < 0.5 and batch.target.shape[-1] == batch.target.shape[-2]:
        batch = batch.changed(lambda picture: picture.transpose(-1, -2))
    return batch
