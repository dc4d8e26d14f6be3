# SPDX-License-Identifier: Apache-2.0
"""Deep features are compared on random squares: where they are, and by their Gram matrices.

Squares are drawn for each image by itself, so that it does not matter who else is in the batch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Features = Callable[[Float[Tensor, "b 3 h w"]], list[Float[Tensor, "b c hs ws"]]]
"""Activations of several layers for images in [0, 1], such as `harmonizer_ns.features.FeatureNetwork`."""

VGG16_WEIGHTS = (1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)
"""Of relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 (Reda et al. 2022)."""
SQUEEZENET_WEIGHTS = (3.2e-7, 6.1e-8, 3e-7, 2.8e-7, 6.3e-6, 4.1e-6, 2.7e-4)
"""Of SqueezeNet 1.1's layers, whose activations are large: ``1 / (7 mean |G_l|_F^2)`` over 50 photos of BSDS500, so
that the loss is a relative one (measured here; half the resolution costs about 0.2)."""


def patch_loss(
    output: Float[Tensor, "b 3 h w"],
    target: Float[Tensor, "b 3 h w"],
    features: Features,
    seeds: Sequence[int],
    patches: int = 2,
    sides: tuple[int, int] = (128, 512),
) -> Float[Tensor, ""]:
    """Compare features of random square patches of many scales (the idea is DiffusionHarmonizer's).

    ``mean_k mean_l d(f_l(P_k x), f_l(P_k y))``, where ``P_k`` cuts the same square out of output and target, its side
    uniform in ``sides`` and at most the image's shorter side. The network sees patches without rescaling, so large ones
    judge composition and small ones detail. ``d`` is `feature_distance`.

    Args:
        output: x.
        target: y.
        features: the network.
        seeds: one for each image, from which its squares are drawn.
        patches: squares of each image.
        sides: least and largest side in pixels.

    Raises:
        ValueError: when there is not one seed for each image.
    """
    height, width = output.shape[-2:]
    largest = min(sides[1], height, width)
    losses = []
    for x, y, seed in zip(output, target, seeds, strict=True):
        chance = random.Random(seed)
        for _ in range(patches):
            side = chance.randint(min(sides[0], largest), largest)
            square = (..., *random_square(height, width, side, chance))
            layers = _activations(features, x[square][None], y[square][None])
            losses.append(torch.stack([feature_distance(a, b) for a, b in layers]).mean())
    return torch.stack(losses).mean()


def gram_loss(
    output: Float[Tensor, "b 3 h w"],
    target: Float[Tensor, "b 3 h w"],
    features: Features,
    seeds: Sequence[int],
    side: int = 400,
    weights: Sequence[float] = VGG16_WEIGHTS,
) -> Float[Tensor, ""]:
    """Compute ``sum_l w_l |G_l(P x) - G_l(P y)|_F^2``, averaged over images (Johnson et al. 2016, equation 4).

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
        ValueError: when there is not one seed for each image or one weight for each layer.
    """
    height, width = output.shape[-2:]
    squares = [(..., *random_square(height, width, side, random.Random(seed))) for seed in seeds]
    x, y = (
        torch.stack([image[square] for image, square in zip(images, squares, strict=True)])
        for images in (output, target)
    )
    losses = [
        weight * (gram_matrix(a) - gram_matrix(b)).square().sum((1, 2)).mean()
        for weight, (a, b) in zip(weights, _activations(features, x, y), strict=True)
    ]
    return torch.stack(losses).sum()


def random_square(height: int, width: int, side: int, chance: random.Random) -> tuple[slice, slice]:
    """Draw rows and columns of a square somewhere inside; as much of it as the image has, when that is smaller."""
    rows, columns = min(side, height), min(side, width)
    top, left = chance.randint(0, height - rows), chance.randint(0, width - columns)
    return slice(top, top + rows), slice(left, left + columns)


def _activations(features: Features, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Give what the network sees in both, layer by layer; gradients pass to x alone."""
    with torch.no_grad():
        wanted = features(y)
    return zip(features(x), wanted, strict=True)


def feature_distance(x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Compute ``mean_hw |n(x) - n(y)|^2``, with ``n`` dividing the features of a pixel by their length.

    In [0, 2] for activations behind a ReLU, whatever the network and the layer, so that no layer needs a weight.
    """
    difference = F.normalize(x, dim=1, eps=1e-6) - F.normalize(y, dim=1, eps=1e-6)
    return difference.square().sum(1).mean()


def gram_matrix(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    """Compute ``G_ij = sum_hw F_i F_j / (c h w)`` of each image (Johnson et al. 2016, equation 3); in float32.

    It tells which features occur together, wherever they are; textures look alike when these agree.
    """
    with torch.autocast(features.device.type, enabled=False):
        flat = features.float().flatten(2)
        return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])
