# SPDX-License-Identifier: Apache-2.0
"""Trainings that take no time, for tests of what is done with them; worker processes find them by name."""

import os
from pathlib import Path

import torch

from harmonizer_ns.errors import InputError
from harmonizer_ns.views import JudgedView


def value(arguments, name):
    return arguments[len(arguments) - 1 - arguments[::-1].index(name) + 1]


def train(arguments, enhancer, on_judged):
    """Two views whose error depends on seed and options; leaves a mark of having been run."""
    seed = int(value(arguments, "--seed"))
    results = Path(value(arguments, "--result_dir"))
    with (results.parent.parent / "trained.txt").open("a") as log:
        log.write(f"{results.name}\n")
    if "--fail" in arguments:
        raise InputError("no such luck")
    if "--die" in arguments:
        os._exit(7)
    generator = torch.Generator().manual_seed(seed)
    for number in range(2):
        truth = torch.rand(3, 24, 32, generator=generator)
        error = 0.1 if value(arguments, "--steps_per_fix") == "0" else 0.05
        rgb = (truth + error * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
        pictures = {"plain": rgb, "enhanced": (rgb + truth) / 2}
        yield JudgedView(str(number), f"images/{number}.png", pictures, truth)
