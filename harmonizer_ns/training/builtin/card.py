# SPDX-License-Identifier: Apache-2.0
"""This module writes the model card of a built-in network from the figures that training measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harmonizer_ns.files import write_json
from harmonizer_ns.training.builtin.validation import Figures

_TEXT = """---
license: apache-2.0
library_name: harmonizer-ns
---
# Built-in enhancer

Repairs frames rendered from a 3D reconstruction (Gaussian splats, NeRF): for each pixel it mixes the render, smoother
versions of it, up to three real photos warped into the view through the rendered depth, and the previous output; it
invents nothing.
{parameters:,} parameters; runs on a CPU. Architecture: `harmonizer_ns/enhancers/builtin/network.py`.

- Weights: Apache-2.0, this project's own training; no pre-trained part.
- Data: {origin} {training_views} views of {scene_count} training scenes.
- Training: {steps} steps in {stage_count} stages, at the end of {crops[batch]} crops of {crops[width]}x{crops[height]}
  pixels, by `harmonizer train builtin`; of each stage the steps up to its best validation count, and `training.json`
  has its configuration.
- Confidence: estimated probability that a pixel's absolute error, averaged over the colours, is below 0.05.
- Two calibrations: pictures that are looked at change only as far as good pixels bear it (bias {bias_when_shown:+.2f});
  repairs that a reconstruction learns from lower the loss of splats, L1 and SSIM, most (bias {bias_when_learned:+.2f}).

## Measured on held-out scenes
{held_out_views} views, PSNR in dB, mean over scenes of means over views. "Good half": pixels where the render is
off by at most its median over the image. "Oracle": best candidate of each pixel, chosen with knowledge of the truth.

{by_condition}

By scene, with all references:

{by_scene}

By kind of damage, with all references:

{by_stream}

![Loss and held-out PSNR over the steps of the last stage](curves.png)

## Limits
It cannot invent what no photo shows: without references it can only smooth. It trusts the rendered depth: where that is
wrong, photos arrive displaced, and it should then keep the render. The figures above are on scenes of the kind it was
trained on; real captures gain differently.
"""


def write_card(folder: Path, report: dict[str, Any]) -> None:
    """Write ``training.json``, ``README.md`` and ``curves.png`` into an enhancer folder."""
    write_json(folder / "training.json", report, indent=2)
    save_curves(folder / "curves.png", report["curves"])
    (folder / "README.md").write_text(model_card(report), encoding="utf-8")


def save_curves(path: Path, curves: dict[str, list[tuple[int, float]]]) -> None:
    """Plot curves, ``(step, value)`` by name, one below the other, as PNG."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(7, 2.2 * len(curves)), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(len(curves), squeeze=False)[:, 0], curves.items(), strict=True):
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else None)
        axes.set(xlabel="step", ylabel=name)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def model_card(report: dict[str, Any]) -> str:
    """Write the card's text from the content of ``training.json``."""
    stages, scenes = report["stages"], report["figures"]["references"]
    return _TEXT.format(
        **report,
        crops=stages[-1]["config"]["data"],
        origin=report["data"].rstrip(".") + ".",
        scene_count=len(report["training_scenes"]),
        steps=sum(stage["steps"] for stage in stages),
        stage_count=len(stages),
        by_condition=table("input", {name: scenes["mean"] for name, scenes in report["figures"].items()}),
        by_scene=table("scene", {name: figures for name, figures in scenes.items() if name != "mean"}),
        by_stream=table("damage", report["by_damage"]),
    )


def table(first: str, rows: dict[str, Figures]) -> str:
    """Set figures as a table in Markdown, one row for each name."""
    head = ("render", "output", "SSIM, render", "SSIM, output", "good half, render", "good half, output", "oracle")
    keys = ("psnr_input", "psnr", "ssim_input", "ssim", "good_input", "good", "oracle")
    lines = [f"| {first} | {' | '.join(head)} | calibration error |", "|---" * (len(head) + 2) + "|"]
    for name, figures in rows.items():
        cells = [f"{figures[key]:.3f}" if "ssim" in key else f"{figures[key]:.2f}" for key in keys]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} | {figures['confidence_error']:.3f} |")
    return "\n".join(lines)
