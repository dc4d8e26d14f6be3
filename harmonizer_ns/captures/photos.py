# SPDX-License-Identifier: Apache-2.0
"""Find photos at the wanted size, and make smaller ones where they are missing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from harmonizer_ns.errors import InputError
from harmonizer_ns.media import IMAGE_SUFFIXES

_ASPECT = 0.02
"""Relative difference of aspect up to which a photo counts as a resized version of what the capture declares."""


def find_photos(images: Path, names: list[str], factor: int, spare: Path) -> list[Path]:
    """The file of every photo, ``factor`` times smaller than the original.

    Smaller photos are looked for in ``images_<factor>`` beside the image folder and below ``spare``, under the same
    name with any image suffix. Those that are missing are made there, in the first of the two that can be written.

    Raises:
        InputError: when originals are missing (all are counted, some named), or nothing can be written.
    """
    originals = [find_image(images, name) for name in names]
    if factor == 1:
        return _all_found(originals, names, images)
    folders = [_smaller(images, name, factor) for name in names]
    found = [
        find_image(*place) or find_image(spare / f"images_{factor}", name)
        for place, name in zip(folders, names, strict=True)
    ]
    missing = [i for i, path in enumerate(found) if path is None]
    _all_found([originals[i] for i in missing], [names[i] for i in missing], images)
    for i in missing:
        found[i] = _shrink(originals[i], factor, _target(folders[i], names[i], factor, spare))  # pyright: ignore[reportArgumentType]
    return [path for path in found if path is not None]


def _smaller(images: Path, name: str, factor: int) -> tuple[Path, str]:
    """``images`` + ``a.jpg`` is found in ``images_4``; so is ``images/a.jpg`` below the capture's folder."""
    first, _, rest = name.partition("/")
    if rest and first.startswith("images"):
        return images / f"{first}_{factor}", rest
    return images.parent / f"{images.name}_{factor}", name


def find_image(folder: Path, name: str) -> Path | None:
    """The file ``name`` of a folder, or one that differs from it in its suffix only."""
    exact = folder / name
    if exact.is_file():
        return exact
    others = (exact.with_suffix(suffix) for suffix in (*IMAGE_SUFFIXES, *(s.upper() for s in IMAGE_SUFFIXES)))
    return next((path for path in others if path.is_file()), None)


def _all_found(paths: list[Path | None], names: list[str], folder: Path) -> list[Path]:
    missing = [name for name, path in zip(names, paths, strict=True) if path is None]
    if missing:
        some = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        raise InputError(f"{len(missing)} of {len(names)} photos are missing in {folder}: {some}")
    return [path for path in paths if path is not None]


def _target(place: tuple[Path, str], name: str, factor: int, spare: Path) -> Path:
    for path in (place[0] / place[1], spare / f"images_{factor}" / name):
        if _can_write(path.parent):
            return path.with_suffix(".png")
    raise InputError(f"cannot write smaller photos to {place[0]} nor to {spare}")


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _shrink(source: Path, factor: int, target: Path) -> Path:
    with _opened(source) as image:
        size = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
        small = image.convert("RGBA" if "A" in image.getbands() else "RGB").resize(size, Image.Resampling.BICUBIC)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        small.save(partial, format="PNG")
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"cannot write the smaller photo {target}: {error}") from error
    return target


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read {path} as an image: {error}") from error


def photo_size(path: Path, declared: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a photo, which must have the declared aspect.

    Raises:
        InputError: when it is not an image, or its aspect is another.
    """
    with _opened(path) as image:
        size = image.size
    if abs(size[0] * declared[1] / (size[1] * declared[0]) - 1) > _ASPECT:
        raise InputError(f"{path} is {size[0]}x{size[1]}, the capture says {declared[0]}x{declared[1]}")
    return size


def read_rgb(path: Path) -> np.ndarray:
    """A photo as bytes ``h w 3``, as stored; transparent pixels are shown on black.

    Raises:
        InputError: when it cannot be read.
    """
    try:
        with _opened(path) as image:
            if "A" not in image.getbands():
                return np.array(image.convert("RGB"))
            pixels = np.array(image.convert("RGBA")).astype(np.float32)
    except (OSError, SyntaxError) as error:
        raise InputError(f"cannot read {path} as an image: {error}") from error
    return (pixels[..., :3] * (pixels[..., 3:] / 255)).round().astype(np.uint8)


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A mask as bytes ``h w``, 255 where the photo counts, at the photo's width and height.

    Raises:
        InputError: when it cannot be read.
    """
    try:
        with _opened(path) as image:
            mask = np.array(image.convert("L").resize(size, Image.Resampling.NEAREST))
    except (OSError, SyntaxError) as error:
        raise InputError(f"cannot read the mask {path}: {error}") from error
    return ((mask > 127) * 255).astype(np.uint8)
