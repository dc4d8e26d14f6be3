# SPDX-License-Identifier: Apache-2.0
"""How good the built-in network is on whole views of held-out scenes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harmonizer_ns.enhancers.builtin.network import MULTIPLE, ChoiceNetwork
from harmonizer_ns.metrics import splat_loss
from harmonizer_ns.training.builtin.losses import CONFIDENT
from harmonizer_ns.training.builtin.samples import Batch, Sample, whole

Figures = dict[str, float]
"""PSNR in dB: ``render``, ``output``, ``good_render``, ``good_output`` (the better half of the render's pixels),
``oracle`` (best candidate of each pixel); ``confidence_error``: mean gap between confidence and what came true;
``loss``: the output's `splat_loss` over the render's."""

CONDITIONS: dict[str, tuple[int, float | None]] = {
    "references": (3, None),
    "one_reference": (1, None),
    "no_references": (0, None),
    "with_previous": (3, 0.5),
}
"""Name -> (references shown, share of truth in the previous output)."""


@torch.inference_mode()
def validate(network: ChoiceNetwork, samples: Iterable[Sample], condition: str = "references") -> dict[str, Figures]:
    """Figures of each scene (means over its views), and of ``mean`` (mean over scenes)."""
    references, previous = CONDITIONS[condition]
    was_training, scenes = network.training, defaultdict(list)
    network.eval()
    for sample in samples:
        batch = whole(sample, MULTIPLE, references, previous)
        choice = network(batch.inputs)
        size = sample.render.shape[-2:]
        scenes[sample.scene].append(measure(batch, choice.rgb.clamp(0, 1), choice.confidence.sigmoid(), size))
    network.train(was_training)
    figures = {scene: _mean(views) for scene, views in sorted(scenes.items())}
    return {**figures, "mean": _mean(list(figures.values()))}


def measure(
    batch: Batch, rgb: Float[Tensor, "1 3 h w"], confidence: Float[Tensor, "1 1 h w"], size: tuple[int, ...]
) -> Figures:
    """Figures of one padded view whose true size is ``size``."""
    inside = torch.zeros_like(batch.good)
    inside[..., : size[0], : size[1]] = True
    render, target = batch.inputs.render, batch.target
    return {
        "render": masked_psnr(render, target, inside),
        "output": masked_psnr(rgb, target, inside),
        "good_render": masked_psnr(render, target, batch.good),
        "good_output": masked_psnr(rgb, target, batch.good),
        "oracle": _oracle(batch, inside),
        "confidence_error": calibration_error(confidence[inside], right_pixels(rgb, target)[inside]),
        "loss": _loss(rgb, target, size) / max(_loss(render, target, size), 1e-6),
    }


def _loss(image: Float[Tensor, "1 3 h w"], target: Float[Tensor, "1 3 h w"], size: tuple[int, ...]) -> float:
    height, width = size
    return splat_loss(image[..., :height, :width], target[..., :height, :width]).item()


def masked_psnr(
    image: Float[Tensor, "1 3 h w"], target: Float[Tensor, "1 3 h w"], mask: Bool[Tensor, "1 1 h w"]
) -> float:
    """``-10 log10`` of the mean squared error over a mask, at most 100 dB."""
    error = (image - target).square().mean(1, keepdim=True)[mask].double().mean().item()
    return -10 * math.log10(max(error, 1e-10))


def right_pixels(rgb: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> Bool[Tensor, "n 1 h w"]:
    """What the confidence predicts."""
    return (rgb - target).abs().mean(1, keepdim=True) < CONFIDENT


def calibration_error(confidence: Float[Tensor, " p"], right: Bool[Tensor, " p"], bins: int = 10) -> float:
    """Expected calibration error: mean over pixels of |mean confidence - share of right pixels| in their bin."""
    index = (confidence * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, index, confidence.double() - right.double())
    return (gaps.abs().sum() / len(confidence)).item()


def _oracle(batch: Batch, inside: Bool[Tensor, "1 1 h w"]) -> float:
    """PSNR of the best candidate of each pixel."""
    candidates = torch.cat([batch.inputs.render[:, None], batch.inputs.warps], dim=1)
    error = (candidates - batch.target[:, None]).square().mean(2)
    error[:, 1:][batch.inputs.valid[:, :, 0] < 0.5] = torch.inf
    return -10 * math.log10(max(error.amin(1)[:, None][inside].double().mean().item(), 1e-10))


def _mean(figures: list[Figures]) -> Figures:
    return {name: sum(f[name] for f in figures) / len(figures) for name in figures[0]} if figures else {}


def score(figures: Figures) -> float:
    """What checkpoints are chosen by: gain in dB, less a tenth of what the good half loses beyond 0.05 dB."""
    loss = figures["good_render"] - figures["good_output"]
    return figures["output"] - figures["render"] - 0.1 * max(0.0, loss - 0.05)


def table(figures: dict[str, Figures]) -> str:
    """Readable lines, one for each scene."""
    lines = [f"{'scene':<24} render output  good -> good oracle calib"]
    for scene, f in figures.items():
        lines.append(
            f"{scene:<24} {f['render']:6.2f} {f['output']:6.2f} {f['good_render']:6.2f} {f['good_output']:6.2f} "
            f"{f['oracle']:6.2f} {f['confidence_error']:.3f}"
        )
    return "\n".join(lines)
