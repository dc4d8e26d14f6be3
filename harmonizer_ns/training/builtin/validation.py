# SPDX-License-Identifier: Apache-2.0
"""Validation measures a built-in network on whole held-out views, run as the enhancer runs it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harmonizer_ns.enhancers.builtin.enhancer import BuiltinEnhancer
from harmonizer_ns.metrics import good_half_psnr, psnr, splat_loss, ssim
from harmonizer_ns.pairs import Pair
from harmonizer_ns.training.builtin.losses import right_pixels
from harmonizer_ns.training.builtin.views import REFERENCES, Batch, WarpedView, show
from harmonizer_ns.training.trainee import Pictures

Figures = dict[str, float]
"""Of one view, or means over views: ``psnr`` and ``psnr_input`` (dB; output and render), ``ssim`` and ``ssim_input``,
``good`` and ``good_input`` (PSNR of the better half of the render's pixels), ``oracle`` (PSNR of the best candidate of
each pixel), ``confidence_error`` (mean gap between confidence and what came true), ``loss`` (the output's `splat_loss`
over the render's)."""


class Condition(NamedTuple):
    """Says what the network is shown.

    Args:
        references: how many photos at most.
        previous: share of truth in the previous output; None shows none.
    """

    references: int = REFERENCES
    previous: float | None = None


CONDITIONS = {
    "references": Condition(),
    "one_reference": Condition(references=1),
    "no_references": Condition(references=0),
    "with_previous": Condition(previous=0.5),
}
"""Those of the model card."""


class Measured(NamedTuple):
    """Holds what came out for one view.

    Args:
        pair: the view's.
        figures: see `Figures`.
        pictures: for sample sheets.
    """

    pair: Pair
    figures: Figures
    pictures: Pictures


def validate(
    enhancer: BuiltinEnhancer, views: Iterable[WarpedView], condition: Condition = CONDITIONS["references"]
) -> list[Measured]:
    """Repair whole views, and compare them with the truth."""
    return [_measure(enhancer, view, condition) for view in views]


@torch.inference_mode()
def _measure(enhancer: BuiltinEnhancer, view: WarpedView, condition: Condition) -> Measured:
    batch = show(view, range(condition.references), condition.previous)
    render, target = batch.inputs.render, batch.target
    repaired = enhancer.repair(batch.inputs)
    output, good = repaired.rgb, good_half_psnr(render, repaired.rgb, target)
    figures = {
        "psnr": psnr(output, target),
        "psnr_input": psnr(render, target),
        "ssim": ssim(output, target),
        "ssim_input": ssim(render, target),
        "good": good.after,
        "good_input": good.before,
        "oracle": psnr(best_candidates(batch), target),
        "confidence_error": calibration_error(repaired.confidence, right_pixels(output, target)),
        "loss": splat_loss(output, target) / splat_loss(render, target).clamp(min=1e-6),
    }
    photo = batch.inputs.warps[0, 0] if condition.references and len(view.warps) else None
    pictures = Pictures(render[0], output[0], target[0], photo)
    return Measured(view.pair, {name: value.item() for name, value in figures.items()}, pictures)


def best_candidates(batch: Batch) -> Float[Tensor, "n 3 h w"]:
    """Choose for each pixel the candidate, or the render, that is nearest to the truth."""
    candidates = torch.cat([batch.inputs.render[:, None], batch.inputs.warps], dim=1)
    error = (candidates - batch.target[:, None]).square().mean(2, keepdim=True)
    error[:, 1:][batch.inputs.valid < 0.5] = torch.inf
    best = error.argmin(1, keepdim=True).expand(-1, -1, 3, -1, -1)
    return candidates.gather(1, best)[:, 0]


def calibration_error(
    confidence: Float[Tensor, "n 1 h w"], right: Bool[Tensor, "n 1 h w"], bins: int = 10
) -> Float[Tensor, ""]:
    """Average over pixels |mean confidence - share of right pixels| in their bin: the expected calibration error."""
    index = (confidence * bins).long().clamp(max=bins - 1).flatten()
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, index, (confidence.double() - right.double()).flatten())
    return gaps.abs().sum() / confidence.numel()


def means(measured: Sequence[Measured], by: Literal["scene", "stream"] = "scene") -> dict[str, Figures]:
    """Average over the views of each scene, or over the scenes of each stream of damage; "mean" is that over scenes."""
    names = sorted({getattr(view.pair, by) for view in measured})
    groups = {name: [view for view in measured if getattr(view.pair, by) == name] for name in names}
    if by == "stream":
        figures = {name: means(views)["mean"] for name, views in groups.items()}
        return figures | {"mean": means(measured)["mean"]}
    figures = {name: _mean([view.figures for view in views]) for name, views in groups.items()}
    return figures | {"mean": _mean(list(figures.values()))}


def _mean(figures: Sequence[Figures]) -> Figures:
    return {name: sum(f[name] for f in figures) / len(figures) for name in figures[0]}


def score(figures: Figures) -> float:
    """Judge weights, to choose the best: gain in dB, less a tenth of what the good half loses beyond 0.05 dB."""
    loss = figures["good_input"] - figures["good"]
    return figures["psnr"] - figures["psnr_input"] - 0.1 * max(0.0, loss - 0.05)
