# SPDX-License-Identifier: Apache-2.0
"""Random training crops: which candidates are seen, how clean the render is, colours, flips."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from harmonizer_ns.enhancers.builtin.inputs import CUE_STRIDE
from harmonizer_ns.training.builtin.samples import Batch, Sample, collate, window

COLOURS = ("render", "target", "warps")


@dataclass(frozen=True)
class AugmentConfig:
    """How training crops are varied."""

    crop: int = 96
    """Side of the crops in pixels, a multiple of 16."""
    drop_references: float = 0.5
    """Share of crops that see only a random number (0 to all) of their references, instead of all."""
    show_previous: float = 0.4
    """Share of crops that see a previous output: a random mixture of the neighbouring frame's truth and render."""
    clean: float = 0.05
    """Share of crops whose render is replaced by the truth: nothing is to be done."""
    near_clean: float = 0.12
    """Share of crops whose render is moved up to 80% of the way toward the truth."""
    jitter: float = 0.15
    """Relative range of the random gain of each colour and of the gamma, the same for all images of a crop."""
    exposure: float = 0.2
    """Share of references with a brightness of their own (gain within 10%), as photos have."""


def random_batch(samples: list[Sample], count: int, config: AugmentConfig, generator: random.Random) -> Batch:
    """Crops of random samples."""
    return collate([random_view(generator.choice(samples), config, generator) for _ in range(count)])


def random_view(sample: Sample, config: AugmentConfig, generator: random.Random) -> dict[str, Tensor]:
    """One augmented crop."""
    rows, columns = (_random_slice(side, config.crop, generator) for side in sample.render.shape[-2:])
    references = _random_references(len(sample.warps), config, generator)
    previous = generator.random() if generator.random() < config.show_previous else None
    view = window(sample, references, previous, rows, columns)
    view["render"] = _cleaned(view, config, generator)
    view["warps"] = _exposed(view["warps"], config, generator)
    return _flipped(_jittered(view, config, generator), generator)


def _random_slice(side: int, crop: int, generator: random.Random) -> slice:
    if side < crop:
        raise ValueError(f"crops of {crop} pixels do not fit into a sample with a side of {side}")
    start = generator.randint(0, (side - crop) // CUE_STRIDE) * CUE_STRIDE
    return slice(start, start + crop)


def _random_references(count: int, config: AugmentConfig, generator: random.Random) -> list[int]:
    kept = generator.randint(0, count) if generator.random() < config.drop_references else count
    return generator.sample(range(count), kept)


def _cleaned(view: dict[str, Tensor], config: AugmentConfig, generator: random.Random) -> Tensor:
    """The render, or the truth, or something between."""
    draw = generator.random()
    if draw < config.clean:
        return view["target"].clone()
    if draw < config.clean + config.near_clean:
        return torch.lerp(view["target"], view["render"], generator.uniform(0.2, 1))
    return view["render"]


def _exposed(warps: Tensor, config: AugmentConfig, generator: random.Random) -> Tensor:
    gains = [generator.uniform(0.9, 1.1) if generator.random() < config.exposure else 1.0 for _ in warps]
    return (warps * torch.tensor(gains)[:, None, None, None]).clamp(0, 1)


def _jittered(view: dict[str, Tensor], config: AugmentConfig, generator: random.Random) -> dict[str, Tensor]:
    """``(gain x)^gamma`` with colours in random order, the same for all images."""
    gain = torch.tensor([generator.uniform(1 - config.jitter, 1.0) for _ in range(3)])[:, None, None]
    gamma = generator.uniform(1 - config.jitter, 1 + config.jitter)
    order = generator.sample(range(3), 3)
    return {
        name: (value[..., order, :, :] * gain) ** gamma if name in COLOURS else value for name, value in view.items()
    }


def _flipped(view: dict[str, Tensor], generator: random.Random) -> dict[str, Tensor]:
    """Mirror, or swap rows and columns, each half of the time. Cues are scalars, they only move along."""
    if generator.random() < 0.5:
        view = {name: value.flip(-1) for name, value in view.items()}
    if generator.random() < 0.5:
        view = {name: value.transpose(-1, -2) for name, value in view.items()}
    return view
