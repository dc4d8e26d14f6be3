# SPDX-License-Identifier: Apache-2.0
"""A frame becomes the picture that people see: enhanced, beside its render, or what the enhancer changed."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from harmonizer_ns.drawing import colored
from harmonizer_ns.viewing.gui import ViewSettings

DIFFERENCE_GAIN = 5.0
"""The difference view shows changes of colour this many times larger."""
_RENDER, _ENHANCED, _WORKING = "render", "enhanced", "working..."
_LINE = 0.95
_MARGIN = 6  # pixels around labels


def compose(
    render: Float[Tensor, "1 3 h w"], enhanced: Float[Tensor, "1 3 h w"] | None, settings: ViewSettings
) -> Float[Tensor, "1 3 h w"]:
    """Put a render and its enhanced frame ``(1 - s) render + s enhanced`` into one picture, as the settings say.

    Args:
        render: as it came.
        enhanced: the same, repaired; None while that is not there: the render stands for it, and a label says so.
        settings: which view, the strength ``s``, and where the divider is.

    Raises:
        ValueError: when the shapes differ.
    """
    if enhanced is not None and render.shape != enhanced.shape:
        raise ValueError(f"render and enhanced frame differ: {tuple(render.shape)}, {tuple(enhanced.shape)}")
    shown = render if enhanced is None else render.lerp(enhanced, settings.strength)
    if settings.show == "before | after":
        return _divided(render, shown, settings.split_at, _WORKING if enhanced is None else _ENHANCED)
    if settings.show == "difference":
        return render if enhanced is None else difference(render, shown)
    return shown


def difference(render: Float[Tensor, "1 3 h w"], enhanced: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 3 h w"]:
    """Show how much each pixel changed: the mean over colours, enlarged, from black to bright."""
    change = (enhanced - render).abs().mean(dim=1)[0]
    picture = colored(change * DIFFERENCE_GAIN, "magma")[None]
    return _labelled(picture, f"difference x{DIFFERENCE_GAIN:.0f}", 0, picture.shape[-1])


def _divided(
    left: Float[Tensor, "1 3 h w"], right: Float[Tensor, "1 3 h w"], at: float, name: str
) -> Float[Tensor, "1 3 h w"]:
    """Put the left part of one picture beside the right part of another, with a line, a grip and labels."""
    height, width = right.shape[-2:]
    column, half = min(int(at * width), width - 1), width // 400
    shown = right.clone()
    shown[..., :column] = left[..., :column]
    shown = _labelled(_labelled(shown, _RENDER, 0, column - half, right=True), name, column + half + 1, width)
    _bar(shown, column, half + (half > 0), slice(None), 0.0)  # dark edges, for bright pictures
    _bar(shown, column, half, slice(None), _LINE)
    if half:
        _bar(shown, column, 3 * half, slice(height // 2 - 8 * half, height // 2 + 8 * half), _LINE)
    return shown


def _bar(picture: Float[Tensor, "1 3 h w"], column: int, half: int, rows: slice, level: float) -> None:
    picture[..., rows, max(0, column - half) : column + half + 1] = level


def _labelled(
    picture: Float[Tensor, "1 3 h w"], text: str, left: int, end: int, right: bool = False
) -> Float[Tensor, "1 3 h w"]:
    """Write on a picture between two columns, at their left or right end; nothing where that is too narrow."""
    height = picture.shape[-2]
    letters = _letters(text, max(12, height // 28), str(picture.device))
    tall, wide = letters.shape
    if end - left < wide + 2 * _MARGIN or height < 4 * tall:
        return picture
    x = end - wide - _MARGIN if right else left + _MARGIN
    picture = picture.clone()
    spot = picture[..., _MARGIN : _MARGIN + tall, x : x + wide]
    spot.copy_((spot * 0.35).lerp(torch.ones_like(spot), letters))
    return picture


@cache
def _letters(text: str, size: int, device: str) -> Float[Tensor, "h w"]:
    """Tell how much of each pixel the letters of a label cover."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = map(round, font.getbbox(text))
    image = Image.new("L", (right - left + size, bottom - top + size // 2))
    ImageDraw.Draw(image).text((size // 2 - left, size // 4 - top), text, fill=255, font=font)
    return torch.from_numpy(np.array(image)).float().div(255).to(device)
