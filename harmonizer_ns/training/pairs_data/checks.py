# SPDX-License-Identifier: Apache-2.0
"""Look at every file that pairs name before training starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from harmonizer_ns.images import upright_size
from harmonizer_ns.pairs import Pair, raise_all

Size = tuple[int, int]
"""Width and height in pixels."""


def clips(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """The frames of each clip, by their numbers."""
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.clip is not None:
            found.setdefault(pair.clip, []).append(pair)
    return {clip: sorted(frames, key=lambda pair: pair.frame or 0) for clip, frames in found.items()}


class _FileError(Exception):
    """What is wrong with one file."""


def check_pairs(files: Sequence[Sequence[Pair]], workers: int = 4) -> None:
    """Decode every image, and open every depth file, once.

    Args:
        files: the pairs to be used of each pairs file; clips of different files are different clips.
        workers: threads that decode.

    Raises:
        InputError: naming every file that is missing, truncated or of another size than its pair's image, and frames
            of a clip that have different sizes or the same number.
    """
    pairs = [pair for file in files for pair in file]
    images = {path for pair in pairs for path in _images(pair)}
    depths = {pair.depth for pair in pairs if pair.depth}
    with ThreadPoolExecutor(workers) as pool:
        sizes = dict(zip(images, pool.map(_probed(_image_size), images), strict=True))
        shapes = dict(zip(depths, pool.map(_probed(_depth_shapes), depths), strict=True))
    unreadable = [str(found) for found in chain(sizes.values(), shapes.values()) if isinstance(found, _FileError)]
    problems = sorted(unreadable)
    for pair in pairs:
        problems += _mismatches(pair, sizes, shapes)
    for file in files:
        problems += _broken_clips(file, sizes)
    raise_all(problems, "the pairs cannot be trained on")


def _images(pair: Pair) -> list[Path]:
    return [pair.image, pair.target_image, *pair.references, *([pair.mask] if pair.mask else [])]


def _probed(probe: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """``probe``, returning its problem instead of raising it."""

    def found(path: Path) -> Any:
        try:
            return probe(path)
        except _FileError as problem:
            return problem

    return found


def _image_size(path: Path) -> Size:
    from PIL import Image

    if not path.is_file():
        raise _FileError(f"{path} does not exist")
    try:
        with Image.open(path) as image:
            image.load()
            return upright_size(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _FileError(f"{path} is not a whole image: {error}") from error


def _depth_shapes(path: Path) -> dict[str, list[int]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise _FileError(f"{path} does not exist")
    try:
        with safe_open(str(path), framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise _FileError(f"{path} is not a whole depth file: {error}") from error
    if "depth" not in shapes:
        raise _FileError(f"{path} holds no tensor named 'depth'")
    return shapes


def _mismatches(pair: Pair, sizes: dict[Path, Any], shapes: dict[Path, Any]) -> Iterator[str]:
    """Files of a pair that are readable, but not of the image's size."""
    size = sizes[pair.image]
    if isinstance(size, _FileError):
        return
    for path in _images(pair)[1:]:
        free = path in pair.references and not pair.cameras  # else its intrinsics tell of the image's size
        if not (free or isinstance(sizes[path], _FileError) or sizes[path] == size):
            yield f"{pair.name}: {path} is {_text(sizes[path])}, its image is {_text(size)}"
    if pair.cameras and (pair.cameras.width, pair.cameras.height) != size:
        declared = _text((pair.cameras.width, pair.cameras.height))
        yield f"{pair.name}: its cameras say {declared}, {pair.image} is {_text(size)}"
    found = shapes[pair.depth] if pair.depth else {}
    if not isinstance(found, _FileError):
        yield from (f"{pair.name}: {problem}" for problem in _depth_mismatches(pair, found, size))


def _depth_mismatches(pair: Pair, shapes: dict[str, list[int]], size: Size) -> Iterator[str]:
    plain = [size[1], size[0]]
    for name, expected in (
        ("depth", plain),
        ("alpha", plain),
        ("reference_depths", [len(pair.references), *plain]),
    ):
        if name in shapes and list(shapes[name]) != expected:
            yield f"{pair.depth} has {name!r} of shape {list(shapes[name])}, expected {expected}"


def _broken_clips(pairs: Sequence[Pair], sizes: dict[Path, Any]) -> Iterator[str]:
    for clip, frames in clips(pairs).items():
        numbers = [pair.frame for pair in frames]
        if twice := sorted({number for number in numbers if numbers.count(number) > 1}, key=str):
            yield f"clip {clip} has frame {twice[0]} more than once"
        different = {sizes[pair.image] for pair in frames if not isinstance(sizes[pair.image], _FileError)}
        if len(different) > 1:
            yield f"clip {clip} has frames of different sizes: {', '.join(map(_text, sorted(different)))}"


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
