# SPDX-License-Identifier: Apache-2.0
"""Put the render and the enhanced frame into one picture."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.viewing.settings import ViewSettings

_LINE = 0.15  # grey of the line between the halves


def compose(
    render: Float[Tensor, "n 3 h w"], enhanced: Float[Tensor, "n 3 h w"], settings: ViewSettings
) -> Float[Tensor, "n 3 h w"]:
    """``(1 - s) render + s enhanced``, and left of the split the plain render.

    Raises:
        ValueError: when the shapes differ.
    """
    if render.shape != enhanced.shape:
        raise ValueError(f"render and enhanced frame differ: {tuple(render.shape)}, {tuple(enhanced.shape)}")
    shown = render.lerp(enhanced, settings.strength)
    if not settings.split:
        return shown
    column = min(int(settings.split_at * shown.shape[-1]), shown.shape[-1] - 1)
    shown = shown.clone()
    shown[..., :column] = render[..., :column]
    shown[..., column] = _LINE
    return shown
