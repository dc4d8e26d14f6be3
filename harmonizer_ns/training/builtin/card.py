# SPDX-License-Identifier: Apache-2.0
"""The model card of the built-in weights, written from the figures that training measured."""

from __future__ import annotations

from typing import Any

CURVES = "curves.png"
"""Beside the card."""
_TEXT = """---
license: apache-2.0
library_name: harmonizer-ns
---
# Built-in enhancer

Repairs frames rendered from a 3D reconstruction (Gaussian splats, NeRF): for each pixel it mixes the render, smoother
versions of it, up to three real photos warped into the view through the rendered depth, and the previous output; it
invents nothing.
{parameters:,} parameters; runs on a CPU. Architecture: `harmonizer_ns/enhancers/builtin_network.py`.

- Weights: Apache-2.0, this project's own training; no pre-trained part.
- Data: {data} {training_views} views of {scene_count} training scenes.
- Training: {steps} steps in {stage_count} stages, at the end of {batch} crops of {crop} pixels, on a CPU or GPU, by
  `harmonizer_ns.training.builtin.train`; the configuration of every stage is in `training.json`.
- Confidence: estimated probability that a pixel's absolute error, averaged over the colours, is below 0.05.
- Two calibrations: pictures that are looked at change only as far as good pixels bear it (bias {bias_when_shown:+.2f});
  repairs that a reconstruction learns from lower the loss of splats, L1 and SSIM, most (bias {bias_when_learned:+.2f}).

## Measured on held-out scenes
{held_out_views} views, PSNR in dB, mean over scenes of means over views. "Good half": pixels where the render is
off by at most its median over the image. "Oracle": best candidate of each pixel, chosen with knowledge of the truth.

{figures}

By scene, with all references:

{scenes}
{curves}
## Limits
It cannot invent what no photo shows: without references it can only smooth. It trusts the rendered depth: where that is
wrong, photos arrive displaced, and it should then keep the render. The figures above are on scenes of the kind it was
trained on; real captures gain differently.
"""


def model_card(report: dict[str, Any]) -> str:
    """Fill the card from the content of ``training.json``."""
    stages = report["stages"]
    config = stages[-1]["config"]
    return _TEXT.format(
        parameters=report["parameters"],
        data=report["data"].rstrip(".") + ".",
        training_views=report["training_views"],
        scene_count=len(report["training_scenes"]),
        steps=sum(stage["steps"] for stage in stages),
        stage_count=len(stages),
        batch=config["batch"],
        crop=config["augment"]["crop"],
        bias_when_shown=report["bias_when_shown"],
        bias_when_learned=report["bias_when_learned"],
        held_out_views=report["held_out_views"],
        figures=_table("input", {name: scenes["mean"] for name, scenes in report["figures"].items()}),
        curves=f"\n![Loss and held-out PSNR over the steps of the last stage]({CURVES})\n"
        if "curves" in report
        else "",
        scenes=_table("scene", {k: v for k, v in report["figures"]["references"].items() if k != "mean"}),
    )


def _table(first: str, rows: dict[str, dict[str, float]]) -> str:
    lines = [
        f"| {first} | render | output | good half, render | good half, output | oracle | calibration error |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, f in rows.items():
        lines.append(
            f"| {name.replace('_', ' ')} | {f['render']:.2f} | {f['output']:.2f} | {f['good_render']:.2f} | "
            f"{f['good_output']:.2f} | {f['oracle']:.2f} | {f['confidence_error']:.3f} |"
        )
    return "\n".join(lines)
