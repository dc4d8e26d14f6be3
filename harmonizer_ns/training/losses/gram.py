# SPDX-License-Identifier: Apache-2.0
"""Gram matrices: which features occur together, wherever they are; textures look alike when these agree."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.training.losses.perceptual import Features
from harmonizer_ns.training.losses.pixel import check_alike
from harmonizer_ns.training.losses.windows import cut_each, random_square

VGG16_WEIGHTS = (1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)
"""Of relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 (Reda et al. 2022)."""
SQUEEZENET_WEIGHTS = (3.2e-7, 6.1e-8, 3e-7, 2.8e-7, 6.3e-6, 4.1e-6, 2.7e-4)
"""Of SqueezeNet 1.1's layers, whose activations are large: ``1 / (7 mean |G_l|_F^2)`` over 50 photos of BSDS500, so
that the loss is a relative one (measured here; half the resolution costs about 0.2)."""


def gram_matrix(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    """``G_ij = sum_hw F_i F_j / (c h w)``, one matrix for each image (Johnson et al. 2016, equation 3); in float32."""
    with torch.autocast(features.device.type, enabled=False):
        flat = features.float().flatten(2)
        return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def gram_loss(
    output: Float[Tensor, "b 3 h w"],
    target: Float[Tensor, "b 3 h w"],
    features: Features,
    seeds: Sequence[int],
    side: int = 400,
    weights: Sequence[float] = VGG16_WEIGHTS,
) -> Float[Tensor, ""]:
    """``sum_l w_l |G_l(P x) - G_l(P y)|_F^2``, averaged over images (Johnson et al. 2016, equation 4).

    ``P`` cuts one random square, the same out of output and target; ``G_l`` is the `gram_matrix` of layer ``l``. It has
    nothing to say about where things are: let it set in when the output is nearly right, as the papers do.

    Args:
        output: x.
        target: y.
        features: the network.
        seeds: one for each image, from which its square is drawn.
        side: of the square in pixels; smaller images are taken whole.
        weights: one for each layer of ``features``.

    Raises:
        ValueError: when the shapes differ, or there is not one seed for each image or one weight for each layer.
    """
    check_alike(output, target)
    height, width = output.shape[-2:]
    squares = [random_square(height, width, side, random.Random(seed)) for seed in seeds]
    found = features(cut_each(output, squares))
    with torch.no_grad():
        wanted = features(cut_each(target, squares))
    losses = [
        weight * (gram_matrix(a) - gram_matrix(b)).square().sum((1, 2)).mean()
        for weight, a, b in zip(weights, found, wanted, strict=True)
    ]
    return torch.stack(losses).sum()
