# SPDX-License-Identifier: Apache-2.0
"""Find photos at the wanted size, make smaller ones where they are missing, and read them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import written_whole
from harmonizer_ns.images import UNREADABLE_IMAGE, eight_bits, opened_image
from harmonizer_ns.media import IMAGE_SUFFIXES

Size = tuple[int, int]
"""Width and height in pixels."""
Alpha = Literal["mask", "black"]
"""What becomes of transparent pixels: they do not count, or they are black."""

_SHOWN = 8
"""At most so many photos are named in one message."""


@dataclass(frozen=True)
class PhotoFile:
    """A photo's file, as its header describes it.

    Args:
        path: of the file.
        size: width and height in pixels, as stored.
        mode: Pillow's name of its channels and their bits.
    """

    path: Path
    size: Size
    mode: str

    @property
    def has_alpha(self) -> bool:
        """Whether pixels can be transparent."""
        return self.mode.endswith(("A", "a"))


def path_inside(folder: Path, name: str, where: str) -> Path:
    """Find what a capture's file names: normalised, also where Windows wrote it, and inside the capture.

    Args:
        folder: of the capture.
        name: relative to it; an absolute path is taken as it is.
        where: the file that says so, for the message.

    Raises:
        InputError: when a relative name leads out of the folder.
    """
    path = Path(os.path.normpath(folder / name.replace("\\", "/")))
    if not Path(name).is_absolute() and not path.is_relative_to(Path(os.path.normpath(folder))):
        raise InputError(
            f"{where} names {name}, which lies outside of the capture {folder}; move it into the capture, or write its "
            "absolute path"
        )
    return path


def with_any_suffix(paths: Sequence[Path]) -> list[Path]:
    """Find photos that lie there with another image suffix than they are listed with; the others stay as listed.

    A photo that is listed itself never stands for another one.
    """
    listed = set(paths)
    return [path if path.is_file() else _other_suffix(path, listed) or path for path in paths]


def _other_suffix(path: Path, listed: set[Path]) -> Path | None:
    suffixes = (*IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES))
    others = (path.with_suffix(suffix) for suffix in suffixes)
    return next((other for other in others if other not in listed and other.is_file()), None)


def find_photos(
    folder: Path, originals: Sequence[Path], sizes: Sequence[Size], factor: int = 1, spare: Path | None = None
) -> list[PhotoFile]:
    """Find the file of every photo, ``factor`` times smaller than the original.

    Smaller photos lie in ``images_<factor>`` in the capture's folder, else in that of ``spare``, under the path that
    the original has below ``images`` (or below the capture), with any image suffix. Those that are missing are made
    there, in the first of the two that can be written. Nothing is written over a file, or through a link.

    Args:
        folder: of the capture.
        originals: the photos' own files.
        sizes: what the capture declares; photos may be smaller or larger, of the same aspect.
        factor: 1 takes the originals.
        spare: where smaller photos lie when the capture cannot be written.

    Raises:
        InputError: naming the photos that cannot be used, or when smaller ones cannot be written.
    """
    if factor == 1:
        return check_photos(originals, sizes)
    names = _smaller_names(folder, originals)
    places = [place / f"images_{factor}" for place in (folder, spare) if place is not None]
    smaller = [next(filter(None, (_found(place, name) for place in places)), None) for name in names]
    files = check_photos([small or original for small, original in zip(smaller, originals, strict=True)], sizes)
    result = []
    for file, small, original, name, size in zip(files, smaller, originals, names, sizes, strict=True):
        if small is None:
            result.append(_shrunk(file, factor, [place / name for place in places]))
        else:
            if original.is_file():
                with opened_image(original) as image:
                    size = image.size
            _check_factor(file, size, factor)
            result.append(file)
    return result


def _smaller_names(folder: Path, originals: Sequence[Path]) -> list[PurePosixPath]:
    """Name smaller photos after the originals; those that differ in their suffix only keep it as part of the name."""
    names = []
    for path in originals:
        parts = path.relative_to(folder if path.is_relative_to(folder) else path.anchor).parts
        names.append(PurePosixPath(*(parts[1:] if parts[0] == "images" and len(parts) > 1 else parts)))
    count = Counter(name.with_suffix("") for name in names)
    return [
        name.with_suffix(".png") if count[name.with_suffix("")] == 1 else name.with_name(f"{name.name}.png")
        for name in names
    ]


def _found(place: Path, name: PurePosixPath) -> Path | None:
    path = place / name
    return path if path.is_file() else _other_suffix(path, set())


def _check_factor(file: PhotoFile, original: Size, factor: int) -> None:
    expected = tuple(side / factor for side in original)
    if any(abs(side - wanted) > 1 for side, wanted in zip(file.size, expected, strict=True)):
        raise InputError(
            f"{file.path} is {file.size[0]}x{file.size[1]}, which is not {factor} times smaller than the photo of "
            f"{original[0]}x{original[1]}; move it away, and it is made anew"
        )


def check_photos(files: Sequence[Path], sizes: Sequence[Size] | None = None) -> list[PhotoFile]:
    """Decode every photo (JPEGs at an eighth of their size, which still reads them to the end).

    Args:
        files: of the photos.
        sizes: what the capture declares for each, where that matters.

    Raises:
        InputError: naming the files that are missing, broken or of another aspect than declared.
    """
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(_inspected, files, sizes or repeat(None)))
    problems = [outcome for outcome in outcomes if isinstance(outcome, str)]
    if problems:
        raise InputError(f"{len(problems)} of {len(files)} photos cannot be used: {shortened(problems)}")
    return [outcome for outcome in outcomes if isinstance(outcome, PhotoFile)]


def shortened(items: Sequence[str]) -> str:
    """Join what a message lists, the first few of it."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more


def _inspected(file: Path, declared: Size | None) -> PhotoFile | str:
    """Describe a photo, or tell what is wrong with it."""
    if not file.is_file():
        return f"{file} is missing"
    try:
        with Image.open(file) as image:
            found = PhotoFile(file, image.size, _mode(image))
            if declared and not _is_resized(declared, image.size):
                cropped = any(side == other for side, other in zip(declared, image.size, strict=True))
                why = ": photos cropped after their calibration need other intrinsics" if cropped else ""
                return f"{file} is {image.width}x{image.height}, the capture says {declared[0]}x{declared[1]}{why}"
            image.draft("RGB", (image.width // 8, image.height // 8))
            image.load()
    except UNREADABLE_IMAGE as error:
        return f"{file} is broken ({error})"
    return found


def _mode(image: Image.Image) -> str:
    return "PA" if image.mode == "P" and "transparency" in image.info else image.mode


def _is_resized(original: Size, size: Size) -> bool:
    """Whether both sides follow from the original's by one factor, each rounded to whole pixels in some way."""
    if min(original) < 1:
        return False
    scale = sum(side / whole for side, whole in zip(size, original, strict=True)) / 2
    return all(abs(side - whole * scale) <= 1 for side, whole in zip(size, original, strict=True))


def _shrunk(source: PhotoFile, factor: int, targets: Sequence[Path]) -> PhotoFile:
    """Write a smaller photo to the first place that can be written."""
    with opened_image(source.path) as image:
        size = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
        small = eight_bits(image).resize(size, Image.Resampling.BICUBIC)
    target, *others = targets
    try:
        _check_target(target)
        with written_whole(target) as partial:
            small.save(partial, format="PNG")
    except InputError:
        if not others:
            raise
        return _shrunk(source, factor, others)
    return PhotoFile(target, size, small.mode)


def _check_target(target: Path) -> None:
    """Refuse to write where something is already, or through a link below the folder of smaller photos."""
    folder = next(parent for parent in target.parents if parent.name.startswith("images_"))
    links = [path for path in (target, *target.parents) if path.is_relative_to(folder) and path.is_symlink()]
    if links or target.exists():
        raise InputError(f"cannot write {target}: {links[0] if links else target} is {'a link' if links else 'there'}")


def read_photo(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a photo as bytes ``h w 3``, and its alpha ``h w``, or None where nothing is transparent.

    Raises:
        InputError: when it cannot be read.
    """
    with opened_image(path) as image:
        pixels = np.array(eight_bits(image))
    if pixels.shape[2] == 3 or pixels[..., 3].min() == 255:
        return pixels[..., :3], None
    return pixels[..., :3], pixels[..., 3]


def on_black(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Put transparent pixels on black."""
    return (pixels * (alpha[..., None].astype(np.float32) / 255)).round().astype(np.uint8)
