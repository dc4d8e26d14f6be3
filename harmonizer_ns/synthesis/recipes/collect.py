# SPDX-License-Identifier: Apache-2.0
"""Gather what was made: the pairs file, a contact sheet for each stream, PSNR ranges."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch
from torch.nn import functional as F

from harmonizer_ns.images import load_image, resize, save_image
from harmonizer_ns.pairs import Pair, write_pairs
from harmonizer_ns.synthesis.recipes.items import is_made, read_item
from harmonizer_ns.synthesis.recipes.plan import Plan

_ROWS = 8
_WIDTH = 240


def collect(plan: Plan, output: Path) -> list[str]:
    """Write ``pairs.json`` and the sheets of all finished items; returns a line on each stream."""
    train, test = [], []
    streams: dict[str, list[tuple[Pair, float | None]]] = {}
    for item in plan.items:
        if is_made(item, output):
            found = read_item(item, output)
            (test if item.scene in plan.test_scenes else train).extend(pair for pair, _ in found)
            streams.setdefault(item.stream, []).extend(found)
    write_pairs(output / "pairs.json", train, test)
    for name, found in streams.items():
        _save_sheet(output / f"sheet_{name}.png", [pair for pair, _ in found])
    return [_summary(name, [psnr for _, psnr in found]) for name, found in streams.items()]


def _summary(name: str, values: list[float | None]) -> str:
    changed = [value for value in values if value is not None]
    equal = len(values) - len(changed)
    ranges = "no changes"
    if changed:
        ranges = f"PSNR {min(changed):.1f} to {max(changed):.1f} dB, median {statistics.median(changed):.1f}"
    return f"{name}: {len(values)} pairs, {ranges}{f', {equal} unchanged' if equal else ''}"


def _save_sheet(path: Path, pairs: list[Pair]) -> None:
    """Rows of input, target and mask, of pairs spread over the stream."""
    count = min(_ROWS, len(pairs))
    rows = [_row(pairs[(2 * i + 1) * len(pairs) // (2 * count)]) for i in range(count)]
    save_image(path, torch.cat(rows, dim=1))


def _row(pair: Pair) -> torch.Tensor:
    images = [load_image(file) for file in (pair.image, pair.target_image, pair.mask) if file]
    height = max(1, round(images[0].shape[1] * _WIDTH / images[0].shape[2]))
    return torch.cat([F.pad(resize(image[None], height, _WIDTH)[0], (0, 4, 0, 4), value=1.0) for image in images], 2)
