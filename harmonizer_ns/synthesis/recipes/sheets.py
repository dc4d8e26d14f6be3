# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: what was made, to look at."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor

from harmonizer_ns.images import load_image, resize, to_uint8
from harmonizer_ns.pairs import Pair
from harmonizer_ns.types import Frames
from harmonizer_ns.warp import REFERENCE_TOLERANCE, backward_warp

_ROWS, _WIDTH, _GAP, _TITLE = 8, 320, 4, 14


def save_sheet(path: Path, found: list[tuple[Pair, float | None]]) -> None:
    """Rows of pairs spread over a stream: input, target, and mask and best reference photo where there are such.

    Args:
        path: of the PNG.
        found: pairs of one stream with their PSNR in dB; None: nothing was changed.
    """
    count = min(_ROWS, len(found))
    chosen = [found[(2 * i + 1) * len(found) // (2 * count)] for i in range(count)]
    rows = [_row(pair, psnr) for pair, psnr in chosen]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    partial = path.with_name(f".{path.name}.partial")
    sheet.save(partial, format="PNG")
    partial.replace(path)


def _row(pair: Pair, psnr: float | None) -> Image.Image:
    columns = _columns(pair, psnr)
    height = max(1, round(columns[0][1].shape[1] * _WIDTH / columns[0][1].shape[2]))
    row = Image.new("RGB", ((_WIDTH + _GAP) * len(columns), height + _TITLE + _GAP), "white")
    draw = ImageDraw.Draw(row)
    for i, (title, image) in enumerate(columns):
        small = to_uint8(resize(image[None], height, _WIDTH)[0]).permute(1, 2, 0).contiguous().numpy()
        row.paste(Image.fromarray(small), (i * (_WIDTH + _GAP), _TITLE))
        draw.text((i * (_WIDTH + _GAP) + 2, 1), title, fill="black")
    return row


def _columns(pair: Pair, psnr: float | None) -> list[tuple[str, Float[Tensor, "3 h w"]]]:
    image, difference = load_image(pair.image), "unchanged" if psnr is None else f"{psnr:.1f} dB"
    columns = [(f"{pair.name}: input, {difference}", image), ("target", load_image(pair.target_image))]
    if pair.mask:
        columns.append(("mask", load_image(pair.mask)))
    if pair.references:
        columns.append(_reference(pair, image))
    return columns


def _reference(pair: Pair, image: Float[Tensor, "3 h w"]) -> tuple[str, Float[Tensor, "3 h w"]]:
    """The best reference, warped into the image by the image's own depth; the image in grey where it shows nothing."""
    photo = load_image(pair.references[0])[None]
    depths = load_file(pair.depth) if pair.depth else {}
    if pair.cameras is None or "reference_depths" not in depths:
        return "reference", photo[0]
    depth, other_depth = depths["depth"].float()[None, None], depths["reference_depths"][:1, None].float()
    source = Frames(photo, torch.ones_like(other_depth), other_depth, pair.cameras[1])
    warped = backward_warp(source, depth, pair.cameras[0], REFERENCE_TOLERANCE)
    return "warped reference", torch.lerp(image.mean(0, keepdim=True) / 2, warped.rgb[0], warped.valid[0])
