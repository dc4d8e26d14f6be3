# SPDX-License-Identifier: Apache-2.0
"""This module holds the built-in enhancer's losses, all relative to the render: clean and broken views count alike."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.enhancers.builtin.network import Choice
from harmonizer_ns.training.builtin.config import ChoiceLossConfig
from harmonizer_ns.training.builtin.views import Batch

_FLOOR = 3e-5  # squared error of 45 dB: much below it nothing is worth gaining or fearing
_TELLING = 0.01  # root mean squared errors that differ by about this much make a choice clear
CONFIDENT = 0.05
"""A pixel counts as right when its absolute error, averaged over the colours, is below this."""


def total_loss(choice: Choice, batch: Batch, config: ChoiceLossConfig, progress: float = 1.0) -> Float[Tensor, ""]:
    """Weigh and add all terms; ``progress`` of the training is in [0, 1]."""
    render, target = batch.inputs.render, batch.target
    loss = (
        config.error * log_error_ratio(choice.rgb, render, target, torch.ones_like(batch.good)).mean()
        + config.preserve * preservation(choice.rgb, render, target, batch.good)
        + config.detail * detail_ratio(choice.rgb, render, target)
        + config.confidence * confidence_loss(choice.confidence, choice.rgb, target)
    )
    guidance = config.guidance * max(config.guidance_kept, 1 - 2 * progress * (1 - config.guidance_kept))
    return loss + guidance * choice_loss(choice, render, target)


def log_error_ratio(
    output: Float[Tensor, "n 3 h w"],
    render: Float[Tensor, "n 3 h w"],
    target: Float[Tensor, "n 3 h w"],
    mask: Bool[Tensor, "n 1 h w"],
) -> Float[Tensor, " n"]:
    """Compute ``log((MSE_out + floor) / (MSE_render + floor))`` in a mask: gains are negative, 10/ln(10) dB a unit."""
    return _masked_log_mse(output, target, mask) - _masked_log_mse(render, target, mask)


def _masked_log_mse(
    image: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"], mask: Bool[Tensor, "n 1 h w"]
) -> Float[Tensor, " n"]:
    error = (image - target).square().mean(1, keepdim=True)
    return ((error * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1) + _FLOOR).log()


def preservation(
    output: Float[Tensor, "n 3 h w"],
    render: Float[Tensor, "n 3 h w"],
    target: Float[Tensor, "n 3 h w"],
    good: Bool[Tensor, "n 1 h w"],
) -> Float[Tensor, ""]:
    """Punish losses where the render was good; gains there count a quarter. Crops count by their good pixels."""
    ratio = log_error_ratio(output, render, target, good)
    share = good.float().mean((1, 2, 3))
    return (F.leaky_relu(ratio, 0.25) * share).sum() / share.sum().clamp(min=1e-6)


def detail_ratio(
    output: Float[Tensor, "n 3 h w"], render: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, ""]:
    """Divide the mean absolute error of the image gradients by the render's, for each image."""
    ours, theirs = _gradient_error(output - target), _gradient_error(render - target)
    return (ours / (theirs + 1e-3)).mean()


def _gradient_error(difference: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    dx = (difference[..., 1:] - difference[..., :-1]).abs().mean((1, 2, 3))
    return dx + (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean((1, 2, 3))


def confidence_loss(
    logit: Float[Tensor, "n 1 h w"], output: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, ""]:
    """Compute the cross-entropy of the belief that a pixel is right; its minimum is the calibrated probability."""
    return F.binary_cross_entropy_with_logits(logit, right_pixels(output.detach(), target).to(logit.dtype))


def right_pixels(output: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> Bool[Tensor, "n 1 h w"]:
    """Mark where the absolute error, averaged over the colours, is below `CONFIDENT`: what the confidence predicts."""
    return (output - target).abs().mean(1, keepdim=True) < CONFIDENT


def choice_loss(
    choice: Choice, render: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, ""]:
    """Compute the cross-entropy of the weights with what would have been right.

    That is ``softmax(-e / 2s^2)`` over the render, the candidates and the smoother versions, with their local mean
    squared errors ``e``.
    """
    missing = render - target
    own = missing[:, None].square().mean(2)
    direct = (missing[:, None] + choice.offset).square().mean(2)
    detail = (missing[:, None] + choice.offset - choice.low).square().mean(2)
    smooth = (missing[:, None] + choice.smoothing).square().mean(2)
    errors = torch.cat([own, torch.stack([direct, detail], dim=2).flatten(1, 2), smooth], dim=1)
    errors = F.avg_pool2d(errors, 5, 1, 2, count_include_pad=False)
    scores = torch.cat([torch.zeros_like(own), choice.scores.flatten(1, 2), choice.smooth_scores], dim=1).float()
    invalid = scores.isinf()
    belief = -errors / (2 * _TELLING**2)
    truth = torch.softmax(belief.masked_fill(invalid, -torch.inf), dim=1)
    return -(truth * torch.log_softmax(scores, dim=1).masked_fill(invalid, 0.0)).sum(1).mean()
