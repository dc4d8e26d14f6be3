# SPDX-License-Identifier: Apache-2.0
"""Images between files, bytes and networks: loading, saving, resizing, and padding with its undoing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.errors import InputError

UNREADABLE_IMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises on broken files."""
_TURNED = range(5, 9)
"""EXIF orientations that swap width and height."""


def to_float(image: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Bytes 0..255 to float32 in [0, 1].

    Raises:
        ValueError: when the input does not hold bytes.
    """
    if image.dtype != torch.uint8:
        raise ValueError(f"to_float expects uint8, got {image.dtype}")
    return image.float() / 255


def to_uint8(image: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Floats to bytes, rounded to nearest; values outside [0, 1] are clamped."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def load_image(path: str | Path) -> Float[Tensor, "3 h w"]:
    """An image file as float RGB in [0, 1]; see `load_bytes`."""
    return to_float(load_bytes(path))


def load_bytes(path: str | Path) -> UInt8[Tensor, "3 h w"]:
    """An image file as RGB, upright (EXIF orientation applied); transparency is dropped.

    Raises:
        InputError: when there is no such file, or it is not a readable image.
    """
    with opened_image(Path(path)) as image:
        pixels = np.array(eight_bits(ImageOps.exif_transpose(image)).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def image_size(path: Path, decode: bool = False) -> tuple[int, int]:
    """Width and height of an image as `load_image` gives it; only its header is read, or all of it to ``decode`` it.

    Raises:
        InputError: when there is no such file, or it is not a readable image.
    """
    with opened_image(path) as image:
        if decode:
            image.load()
        return upright_size(image)


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file; what goes wrong with it in the block becomes an `InputError`."""
    if not path.is_file():
        raise InputError(f"no image file at {path}")
    try:
        with Image.open(path) as image:
            yield image
    except UNREADABLE_IMAGE as error:
        raise InputError(f"cannot read {path} as an image: {error}") from error


def eight_bits(image: Image.Image) -> Image.Image:
    """Give an image of any mode as 8-bit RGB, or RGBA where pixels can be transparent.

    One channel of 16 or 32 bits and floats in [0, 1] are scaled; Pillow's own conversion clips them.

    Raises:
        ValueError: when floats are not finite, or their range is not known.
    """
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.float64)
        levels = np.clip(values / _white(values, image.mode) * 255, 0, 255).round().astype(np.uint8)
        image = Image.fromarray(levels)
    transparent = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return image.convert("RGBA" if transparent else "RGB")


def _white(values: np.ndarray, mode: str) -> float:
    """Tell the value of white; integers of 32 bits often hold 16, floats often hold integers."""
    top = float(values.max(initial=0))
    if not np.isfinite(values).all():
        raise ValueError("some of its floating-point values are not finite")
    if mode.startswith("F") and top <= 1:
        return 1.0
    if mode.startswith("F") and top <= 255:
        return 255.0
    if top <= 65535:
        return 65535.0
    if mode.startswith("F"):
        raise ValueError(f"its floating-point values reach {top:g}; those of photos end at 1, 255 or 65535")
    return float(np.iinfo(np.int32).max)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image once it stands upright (EXIF orientation applied)."""
    turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    return (image.height, image.width) if turned else image.size


def save_image(path: str | Path, image: Float[Tensor, "3 h w"]) -> None:
    """Write an image as 8-bit PNG or JPEG, by suffix; folders are created.

    Raises:
        ValueError: when the image is not ``3 h w``, or the suffix names no image format.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"save_image expects (3, h, w), got {tuple(image.shape)}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    to_pillow(image).save(path, **options)


def to_pillow(image: Float[Tensor, "3 h w"]) -> Image.Image:
    """Give an image to Pillow."""
    return Image.fromarray(to_pixels(image))


def to_pixels(image: Float[Tensor, "3 h w"]) -> np.ndarray:
    """Bytes in the order ``h w 3``, as other libraries want them; a GPU sends these, not floats."""
    return to_uint8(image.detach()).permute(1, 2, 0).contiguous().cpu().numpy()


def resize(image: Float[Tensor, "n c h w"], height: int, width: int) -> Float[Tensor, "n c height width"]:
    """Resample images; antialiased when shrinking. Suits colours, not depth (it would average across edges).

    Raises:
        ValueError: on a non-positive size.
    """
    if height < 1 or width < 1:
        raise ValueError(f"cannot resize to {width}x{height}")
    if tuple(image.shape[-2:]) == (height, width):
        return image
    resized = F.interpolate(image, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return resized.clamp(0, 1)


def shrunk(image: Float[Tensor, "c h w"], side: float) -> Float[Tensor, "c _ _"]:
    """The image with its longer side at most ``side`` pixels long."""
    scale = min(1.0, side / max(image.shape[-2:]))
    height, width = (max(1, round(length * scale)) for length in image.shape[-2:])
    return resize(image[None], height, width)[0]


def beside(images: Sequence[Float[Tensor, "_ _ _"]], gap: int = 0) -> Float[Tensor, "3 h wide"]:
    """Pictures from left to right, all as high and wide as the first; those of one channel turn grey.

    Args:
        images: ``3 h w`` or ``1 h w``; of any size, the first one's counts.
        gap: white columns between two.

    Raises:
        ValueError: without images.
    """
    if not images:
        raise ValueError("no images to put beside each other")
    height, width = images[0].shape[-2:]
    white = images[0].new_ones(3, height, gap)
    row: list[Tensor] = []
    for image in images:
        row += [white, resize(image[None].to(images[0]), height, width)[0].expand(3, -1, -1)]
    return torch.cat(row[1:], dim=-1)


def labelled(pictures: Mapping[str, Float[Tensor, "_ _ _"]], gap: int = 4) -> Float[Tensor, "3 tall wide"]:
    """Pictures from left to right as `beside` puts them, each below its name; a name wider than its picture is cut.

    Raises:
        ValueError: without pictures.
    """
    row = beside(list(pictures.values()), gap)
    width = (row.shape[-1] + gap) // len(pictures) - gap
    size = max(11, row.shape[-2] // 32)  # of the letters, in pixels
    line = Image.new("RGB", (row.shape[-1], size + size // 3 + 1), "white")
    for i, name in enumerate(pictures):
        cell = Image.new("RGB", (width, line.height), "white")
        ImageDraw.Draw(cell).text((2, 0), name, fill="black", font=ImageFont.load_default(size))
        line.paste(cell, (i * (width + gap), 0))
    names = to_float(torch.from_numpy(np.array(line)).permute(2, 0, 1))
    return torch.cat([names.to(row), row], dim=1)


def contact_sheet(rows: Sequence[Sequence[Float[Tensor, "_ _ _"]]], gap: int = 4) -> Float[Tensor, "3 tall wide"]:
    """Rows of pictures (`beside`) below each other, on white.

    Raises:
        ValueError: without images.
    """
    strips = [beside(row, gap) for row in rows]
    wide = max((strip.shape[-1] for strip in strips), default=0)
    return torch.cat([F.pad(strip, (0, wide - strip.shape[-1], 0, gap), value=1.0) for strip in strips], dim=1)


@dataclass(frozen=True)
class Padding:
    """Pixels added at the right and at the bottom so that both sides become multiples of a number.

    The top-left corner stays where it was, so intrinsics keep their meaning.
    """

    right: int
    bottom: int

    @staticmethod
    def to_multiple(height: int, width: int, multiple: int) -> Padding:
        """The least padding of a ``height`` x ``width`` image.

        Raises:
            ValueError: when a number is not positive.
        """
        if min(height, width, multiple) < 1:
            raise ValueError(f"cannot pad a {width}x{height} image to multiples of {multiple}")
        return Padding(right=-width % multiple, bottom=-height % multiple)

    def apply(self, image: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch hp wp"]:
        """Repeat the last row and column; works for images of any size, down to one pixel."""
        if not (self.right or self.bottom):
            return image
        batch = image.shape[:-2]
        flat = image.reshape(1, -1, *image.shape[-2:])
        padded = F.pad(flat, (0, self.right, 0, self.bottom), mode="replicate")
        return padded.reshape(*batch, *padded.shape[-2:])

    def undo(self, image: Float[Tensor, "*batch hp wp"]) -> Float[Tensor, "*batch h w"]:
        """Cut the padding off again."""
        height, width = image.shape[-2:]
        return image[..., : height - self.bottom, : width - self.right]


def local_mean(image: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "n c h w"]:
    """Mean over a square window of an odd ``side``; outside the image nothing counts."""
    return F.avg_pool2d(image, side, stride=1, padding=side // 2, count_include_pad=False)
