# SPDX-License-Identifier: Apache-2.0
"""Find photos at the wanted size, make smaller ones where they are missing, and read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import written_whole
from harmonizer_ns.media import IMAGE_SUFFIXES

Size = tuple[int, int]
"""Width and height in pixels."""

_ASPECT = 0.02
"""Relative difference of aspect up to which a photo counts as a resized version of what the capture declares."""
_SHOWN = 8
"""At most so many photos are named in one message."""
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # all that PIL raises on broken files


def find_photos(
    images: Path, names: Sequence[str], sizes: Sequence[Size], factor: int = 1, spare: Path | None = None
) -> list[Path]:
    """Find the file of every photo, ``factor`` times smaller than the original.

    Smaller photos are looked for in ``images_<factor>`` beside the image folder and below ``spare``, under the same
    name with any image suffix. Those that are missing are made there, in the first of the two that can be written.

    Args:
        images: the image folder.
        names: of the photos, as paths below it.
        sizes: what the capture declares; photos may be smaller or larger, of the same aspect.
        factor: 1 takes the originals.
        spare: where smaller photos lie when the capture cannot be written.

    Raises:
        InputError: naming the photos that cannot be used, or when smaller ones cannot be written.
    """
    originals = [find_image(images, name) or images / name for name in names]
    places = [_places(images, name, factor, spare) if factor > 1 else [] for name in names]
    smaller = [next(filter(None, (find_image(*place) for place in some)), None) for some in places]
    sources = [small or original for small, original in zip(smaller, originals, strict=True)]
    check_photos(sources, sizes)
    if factor == 1:
        return sources
    found = zip(smaller, sources, places, strict=True)
    return [small or _shrink(source, factor, some) for small, source, some in found]


def check_photos(files: Sequence[Path], sizes: Sequence[Size] | None = None) -> None:
    """Decode every photo (JPEGs at an eighth of their size, which still reads them to the end).

    Args:
        files: of the photos.
        sizes: what the capture declares for each, where its aspect matters.

    Raises:
        InputError: naming the files that are missing, broken or of another aspect than declared.
    """
    with ThreadPoolExecutor() as pool:
        problems = [problem for problem in pool.map(_problem, files, sizes or repeat(None)) if problem]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        shown = "; ".join(problems[:_SHOWN])
        raise InputError(f"{len(problems)} of {len(files)} photos cannot be used: {shown}{more}")


def _problem(file: Path, declared: Size | None) -> str | None:
    if not file.is_file():
        return f"{file} is missing"
    try:
        with Image.open(file) as image:
            width, height = image.size
            if declared and abs(width * declared[1] / (height * declared[0]) - 1) > _ASPECT:
                return f"{file} is {width}x{height}, the capture says {declared[0]}x{declared[1]}"
            image.draft("RGB", (width // 8, height // 8))
            image.load()
    except _UNREADABLE as error:
        return f"{file} is broken ({error})"
    return None


def _places(images: Path, name: str, factor: int, spare: Path | None) -> list[tuple[Path, str]]:
    """List folders in which a smaller photo may lie, each with its name there.

    ``images`` + ``a.jpg`` is found in ``images_4``; so is ``images/a.jpg`` below the capture's folder.
    """
    first, _, rest = name.partition("/")
    if rest and first.startswith("images"):
        beside = images / f"{first}_{factor}", rest
    else:
        beside = images.parent / f"{images.name}_{factor}", name
    return [beside] if spare is None else [beside, (spare / f"images_{factor}", name)]


def find_image(folder: Path, name: str) -> Path | None:
    """Find the file ``name`` in a folder, or one that differs from it in its suffix only."""
    exact = folder / name
    if exact.is_file():
        return exact
    others = (exact.with_suffix(suffix) for suffix in (*IMAGE_SUFFIXES, *(s.upper() for s in IMAGE_SUFFIXES)))
    return next((path for path in others if path.is_file()), None)


def _shrink(source: Path, factor: int, places: list[tuple[Path, str]]) -> Path:
    """Write a smaller photo to the first place that can be written."""
    with _opened(source) as image:
        size = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
        small = image.convert("RGBA" if "A" in image.getbands() else "RGB").resize(size, Image.Resampling.BICUBIC)
    (folder, name), *others = places
    target = (folder / name).with_suffix(".png")
    try:
        with written_whole(target) as partial:
            small.save(partial, format="PNG")
    except InputError:
        if not others:
            raise
        return _shrink(source, factor, others)
    return target


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file; what goes wrong inside the block is about the file."""
    try:
        with Image.open(path) as image:
            yield image
    except _UNREADABLE as error:
        raise InputError(f"cannot read {path} as an image: {error}") from error


def photo_size(path: Path) -> Size:
    """Read width and height of a photo from its header.

    Raises:
        InputError: when it is not an image.
    """
    with _opened(path) as image:
        return image.size


def read_rgb(path: Path) -> np.ndarray:
    """Read a photo as bytes ``h w 3``, as stored; transparent pixels are shown on black.

    Raises:
        InputError: when it cannot be read.
    """
    with _opened(path) as image:
        if "A" not in image.getbands():
            return np.array(image.convert("RGB"))
        pixels = np.array(image.convert("RGBA")).astype(np.float32)
    return (pixels[..., :3] * (pixels[..., 3:] / 255)).round().astype(np.uint8)


def read_mask(path: Path, size: Size) -> np.ndarray:
    """Read a mask as bytes ``h w``, 255 where the photo counts, at the photo's width and height.

    Raises:
        InputError: when it cannot be read.
    """
    with _opened(path) as image:
        mask = np.array(image.convert("L").resize(size, Image.Resampling.NEAREST))
    return ((mask > 127) * 255).astype(np.uint8)
