# SPDX-License-Identifier: Apache-2.0
"""Differences of pixels."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def l1_loss(output: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """``mean |x - y|`` over images, colours and pixels.

    Raises:
        ValueError: when the shapes differ.
    """
    check_alike(output, target)
    return F.l1_loss(output, target)


def l2_loss(output: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """``mean (x - y)^2`` over images, colours and pixels.

    Raises:
        ValueError: when the shapes differ.
    """
    check_alike(output, target)
    return F.mse_loss(output, target)


def check_alike(output: Tensor, target: Tensor) -> None:
    """Refuse images of different shapes, which would broadcast.

    Raises:
        ValueError: naming both shapes.
    """
    if output.shape != target.shape or output.ndim != 4 or output.shape[1] != 3:
        raise ValueError(
            f"losses compare images of one shape b 3 h w, got {tuple(output.shape)} and {tuple(target.shape)}"
        )
