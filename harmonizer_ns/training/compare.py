# SPDX-License-Identifier: Apache-2.0
"""Compare trained built-in enhancers on held-out scenes, for each kind of damage.

``python -m harmonizer_ns.training.compare CHECKPOINT... --samples DIR --pairs FILE... --held-out SCENE...`` prints a
Markdown table: the plain image's PSNR, and each checkpoint's gain over it, in dB (means over scenes of means over
views).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from harmonizer_ns.enhancers.builtin.enhancer import BuiltinEnhancer
from harmonizer_ns.errors import InputError
from harmonizer_ns.training.builtin.pair_samples import load_pair_samples
from harmonizer_ns.training.builtin.samples import Sample, load_samples
from harmonizer_ns.training.builtin.validation import Figures, validate

_SETTING = re.compile(r"n\d+o\d+_s\d+")


@dataclass(frozen=True)
class CompareConfig:
    """What to compare, and on what."""

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Enhancer folders."""
    held_out: tuple[str, ...]
    """Scenes that none of them was trained on."""
    samples: Path | None = None
    """Folder of samples; their damage counts as "sparse"."""
    pairs: tuple[Path, ...] = ()
    """Pairs files of ``harmonizer synthesize``; both splits are looked at, damage is told by stream."""
    eagerness: float | None = None
    """The same eagerness for all; None: each as it was calibrated."""
    threads: int = 1
    """CPU threads."""


def compare(config: CompareConfig) -> dict[str, list[Figures]]:
    """Figures of every checkpoint for each kind of damage, "all" last.

    Raises:
        InputError: when nothing is left to look at.
    """
    torch.set_num_threads(config.threads)
    groups = _by_damage(config)
    figures: dict[str, list[Figures]] = {name: [] for name in groups}
    for folder in config.checkpoints:
        enhancer = BuiltinEnhancer.from_pretrained(folder)
        if config.eagerness is not None:
            enhancer.network.bias_when_shown = config.eagerness
        for name, samples in groups.items():
            figures[name].append(validate(enhancer.network, samples)["mean"])
    return figures


def _by_damage(config: CompareConfig) -> dict[str, list[Sample]]:
    """Held-out samples of each kind of damage, then all of them."""
    found = [] if config.samples is None else load_samples(config.samples)
    found += [sample for path in config.pairs for sample in load_pair_samples(path)]
    kept = [sample for sample in found if sample.scene in config.held_out]
    if not kept:
        raise InputError(f"no samples of {', '.join(config.held_out)} in {config.samples} or {list(config.pairs)}")
    groups: dict[str, list[Sample]] = {}
    for sample in kept:
        groups.setdefault("sparse" if _SETTING.fullmatch(sample.recipe) else sample.recipe, []).append(sample)
    return {**groups, "all": kept}


def table(names: list[str], figures: dict[str, list[Figures]]) -> str:
    """Markdown: a row for each kind of damage."""
    rows = [["damage", "plain", *names]]
    for damage, each in figures.items():
        rows.append([damage, f"{each[0]['render']:.2f}", *(f"{f['output'] - f['render']:+.2f}" for f in each)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def main(config: CompareConfig) -> None:
    """Print the table."""
    print(table([folder.name for folder in config.checkpoints], compare(config)))


if __name__ == "__main__":
    main(tyro.cli(CompareConfig))
