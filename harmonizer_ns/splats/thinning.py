# SPDX-License-Identifier: Apache-2.0
"""With few photos, splats that no second photo confirms float where novel views see them: a little opacity costs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

FEW_PHOTOS = 20
"""So many photos at most are few; with more the price gains little, or costs."""
_WEIGHT = 0.02


def opacity_weight(asked: float | None, photos: int) -> float:
    """Say how much the mean opacity weighs in the loss of a run on so many photos.

    Args:
        asked: by the user; None: 0.02 for `FEW_PHOTOS` or fewer, 0 for more.
        photos: number of those to learn from.
    """
    if asked is not None:
        return asked
    return _WEIGHT if 0 < photos <= FEW_PHOTOS else 0.0


def mean_opacity(splats: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Average the opacity of all Gaussians, whose logits are given, as Kheradmand et al. 2024 penalise it."""
    return torch.sigmoid(splats["opacities"]).mean()
