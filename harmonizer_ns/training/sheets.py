# SPDX-License-Identifier: Apache-2.0
"""Pictures of a training run: sheets of samples, and curves."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.images import resize, save_image
from harmonizer_ns.training.trainee import Pictures

_GAP = 4


def sheet(rows: list[Pictures]) -> Float[Tensor, "3 h w"]:
    """One row for each view: input, output, target, and the reference where there is one; on white."""
    strips = [_strip(row) for row in rows]
    width = max(strip.shape[-1] for strip in strips)
    return torch.cat([F.pad(strip, (0, width - strip.shape[-1], 0, _GAP), value=1.0) for strip in strips], dim=1)


def _strip(row: Pictures) -> Float[Tensor, "3 h w"]:
    images = [row.render, row.output, row.target]
    if row.reference is not None:
        images.append(resize(row.reference[None], *row.render.shape[-2:])[0])
    return torch.cat([F.pad(image.clamp(0, 1), (0, _GAP), value=1.0) for image in images], dim=2)


def save_sheet(path: Path, rows: list[Pictures]) -> None:
    """Write a sheet as PNG."""
    save_image(path, sheet(rows))


def save_curves(path: Path, curves: dict[str, list[tuple[int, float]]]) -> None:
    """Plot each curve over the steps, one below the other, as PNG.

    Args:
        path: of the picture.
        curves: name -> (step, value).
    """
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(7, 2.2 * len(curves)), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(len(curves), squeeze=False)[:, 0], curves.items(), strict=True):
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else None)
        axes.set(xlabel="step", ylabel=name)
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
