# SPDX-License-Identifier: Apache-2.0
"""Every file that pairs name is looked at before training starts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import image_size
from harmonizer_ns.pairs import Pair, raise_all

Size = tuple[int, int]
"""Width and height in pixels."""
Shapes = dict[str, list[int]]
"""Of the tensors in a depth file, by name."""
T = TypeVar("T")


def clips(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Collect the frames of each clip, by their numbers."""
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.clip is not None:
            found.setdefault(pair.clip, []).append(pair)
    return {clip: sorted(frames, key=lambda pair: pair.frame or 0) for clip, frames in found.items()}


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
        sizes, unreadable = _readable(pool, partial(image_size, decode=True), images)
        shapes, damaged = _readable(pool, _depth_shapes, depths)
    problems = sorted(unreadable + damaged)
    for pair in pairs:
        problems += _mismatches(pair, sizes, shapes)
    for file in files:
        problems += _broken_clips(file, sizes)
    raise_all(problems, "the pairs cannot be trained on")


def _images(pair: Pair) -> list[Path]:
    return [pair.image, pair.target_image, *pair.references, *([pair.mask] if pair.mask else [])]


def _readable(
    pool: ThreadPoolExecutor, read: Callable[[Path], T], paths: Collection[Path]
) -> tuple[dict[Path, T], list[str]]:
    """Read every file that can be read, and tell what is wrong with the others."""

    def attempt(path: Path) -> T | InputError:
        try:
            return read(path)
        except InputError as error:
            return error

    found = dict(zip(paths, pool.map(attempt, paths), strict=True))
    wrong = [str(value) for value in found.values() if isinstance(value, InputError)]
    return {path: value for path, value in found.items() if not isinstance(value, InputError)}, wrong


def _depth_shapes(path: Path) -> Shapes:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a whole depth file: {error}") from error
    if "depth" not in shapes:
        raise InputError(f"{path} holds no tensor named 'depth'")
    return shapes


def _mismatches(pair: Pair, sizes: dict[Path, Size], shapes: dict[Path, Shapes]) -> Iterator[str]:
    """Find files of a pair that are readable, but not of the image's size."""
    size = sizes.get(pair.image)
    if size is None:
        return
    for path in _images(pair)[1:]:
        free = path in pair.references and not pair.cameras  # else its intrinsics tell of the image's size
        if not free and sizes.get(path, size) != size:
            yield f"{pair.name}: {path} is {_text(sizes[path])}, its image is {_text(size)}"
    if pair.cameras and (pair.cameras.width, pair.cameras.height) != size:
        declared = _text((pair.cameras.width, pair.cameras.height))
        yield f"{pair.name}: its cameras say {declared}, {pair.image} is {_text(size)}"
    found, plain = shapes.get(pair.depth, {}) if pair.depth else {}, [size[1], size[0]]
    expected = {"depth": plain, "alpha": plain, "reference_depths": [len(pair.references), *plain]}
    for name, shape in expected.items():
        if name in found and found[name] != shape:
            yield f"{pair.name}: {pair.depth} has {name!r} of shape {found[name]}, expected {shape}"


def _broken_clips(pairs: Sequence[Pair], sizes: dict[Path, Size]) -> Iterator[str]:
    for clip, frames in clips(pairs).items():
        numbers = [pair.frame for pair in frames]
        if twice := sorted({number for number in numbers if numbers.count(number) > 1}, key=str):
            yield f"clip {clip} has frame {twice[0]} more than once"
        different = {sizes[pair.image] for pair in frames if pair.image in sizes}
        if len(different) > 1:
            yield f"clip {clip} has frames of different sizes: {', '.join(map(_text, sorted(different)))}"


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
