# SPDX-License-Identifier: Apache-2.0
"""Distances of deep features: LPIPS on whole images, and feature distances on random patches."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.training.losses.pixel import check_alike
from harmonizer_ns.training.losses.windows import random_square

Features = Callable[[Float[Tensor, "b 3 h w"]], list[Float[Tensor, "b c hs ws"]]]
"""Activations of several layers for images in [0, 1], such as `harmonizer_ns.features.FeatureNetwork`."""


def lpips_loss(
    output: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"], distance: torch.nn.Module
) -> Float[Tensor, ""]:
    """Mean LPIPS (Zhang et al. 2018, equation 1).

    ``sum_l mean_hw sum_c w_lc (f_lc(x) - f_lc(y))^2`` over unit-normalised features ``f_l`` of a pretrained network.

    Args:
        output: x.
        target: y.
        distance: from `harmonizer_ns.features.load_lpips`.

    Raises:
        ValueError: when the shapes differ.
    """
    check_alike(output, target)
    return distance(output, target, normalize=True).mean()


def patch_loss(
    output: Float[Tensor, "b 3 h w"],
    target: Float[Tensor, "b 3 h w"],
    features: Features,
    seeds: Sequence[int],
    patches: int = 2,
    sides: tuple[int, int] = (128, 512),
) -> Float[Tensor, ""]:
    """Multi-scale perceptual loss on random square patches (the idea is DiffusionHarmonizer's).

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
        ValueError: when the shapes differ, or there is not one seed for each image.
    """
    check_alike(output, target)
    losses = []
    for x, y, seed in zip(output, target, seeds, strict=True):
        chance, (_, height, width) = random.Random(seed), x.shape
        for _ in range(patches):
            square = random_square(height, width, _random_side(height, width, sides, chance), chance)
            found, wanted = features(square.cut(x)[None]), _constant(features, square.cut(y)[None])
            distances = [feature_distance(a, b) for a, b in zip(found, wanted, strict=True)]
            losses.append(torch.stack(distances).mean())
    return torch.stack(losses).mean()


def _random_side(height: int, width: int, sides: tuple[int, int], chance: random.Random) -> int:
    largest = min(sides[1], height, width)
    return chance.randint(min(sides[0], largest), largest)


@torch.no_grad()
def _constant(features: Features, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b c hs ws"]]:
    """Activations of what does not learn."""
    return features(image)


def feature_distance(x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """``mean_hw |n(x) - n(y)|^2``, with ``n`` dividing the features of a pixel by their length.

    In [0, 2] for activations behind a ReLU, whatever the network and the layer, so that no layer needs a weight.
    """
    difference = F.normalize(x, dim=1, eps=1e-6) - F.normalize(y, dim=1, eps=1e-6)
    return difference.square().sum(1).mean()
