# SPDX-License-Identifier: Apache-2.0
"""Pairs files: which damaged image should look like which. Difix's JSON, extended.

``{"train": {NAME: {...}}, "test": {NAME: {...}}}`` where every pair holds

| key | what |
|---|---|
| image, target_image | paths of the damaged image and of what it should look like, of one size |
| ref_image or ref_images | optional path, or list of paths, best first: real photos of the same scene |
| prompt | optional text |
| mask | optional path: an image of the same size, white where the image was changed |
| clip, frame | optional, together: the clip's name and the frame's number in it; consecutive numbers are neighbours |
| depth | optional path of a safetensors file (below) |
| cameras | optional ``{"image": CAMERA, "references": [CAMERA, ...]}``, a reference for each photo, where CAMERA is
  ``{"camera_to_world": 4x4, "intrinsics": 3x3}``: OpenCV axes, pixels of the image's size |
| source | optional text or JSON object: the recipe that made the pair |

Paths are relative to the file's folder. Other keys are left alone. References have the image's size when cameras are
given, and may otherwise have any. A depth file holds ``depth`` [h, w], z-depth in scene units, 0 where unknown;
optionally ``alpha`` [h, w], opacity in [0, 1], and ``reference_depths`` [r, h, w]; all of the image's size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harmonizer_ns.errors import InputError
from harmonizer_ns.poses import check_poses

Matrix = tuple[tuple[float, ...], ...]
_SHOWN = 20


@dataclass(frozen=True)
class PairCamera:
    """One pinhole camera.

    Args:
        camera_to_world: 4x4, OpenCV axes, scene units.
        intrinsics: 3x3, in pixels of the image's size.
    """

    camera_to_world: Matrix
    intrinsics: Matrix


@dataclass(frozen=True)
class PairCameras:
    """Cameras of a pair: the image's, and that of each reference."""

    image: PairCamera
    references: tuple[PairCamera, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A damaged image and what it should look like; see the module's table."""

    name: str
    image: Path
    target_image: Path
    references: tuple[Path, ...] = ()
    prompt: str = ""
    mask: Path | None = None
    clip: str | None = None
    frame: int | None = None
    depth: Path | None = None
    cameras: PairCameras | None = None
    source: str | dict[str, Any] | None = None


@dataclass(frozen=True)
class Pairs:
    """What a pairs file holds."""

    train: tuple[Pair, ...]
    test: tuple[Pair, ...] = ()


def read_pairs(path: Path, allow_outside: bool = False) -> Pairs:
    """Read a pairs file; images are not opened.

    Args:
        path: of the JSON file.
        allow_outside: accept paths that leave the file's folder, symbolic links resolved.

    Raises:
        InputError: naming everything that is wrong with it.
    """
    content = _read_json(path)
    problems: list[str] = []
    reader = _Reader(path.resolve().parent, allow_outside)
    splits = {split: tuple(_read_split(content, split, reader, problems)) for split in ("train", "test")}
    if not problems and not any(splits.values()):
        problems = ['it holds no pairs: neither "train" nor "test" names any']
    raise_all(problems, f"{path} is no good pairs file")
    return Pairs(**splits)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise InputError(f"cannot read the pairs file {path}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f'{path} is no pairs file: it should hold {{"train": {{...}}, "test": {{...}}}}')
    return content


def _read_split(content: dict[str, Any], split: str, reader: _Reader, problems: list[str]) -> Iterator[Pair]:
    entries = content.get(split, {})
    if not isinstance(entries, dict):
        problems.append(f'"{split}" should map names to pairs')
        return
    for name, entry in entries.items():
        try:
            yield reader.pair(name, entry)
        except _PairError as problem:  # noqa: PERF203 (all problems are told at once)
            problems.append(f"{split}/{name}: {problem}")


class _PairError(Exception):
    """What is wrong with one pair."""


@dataclass(frozen=True)
class _Reader:
    folder: Path
    allow_outside: bool

    def pair(self, name: str, entry: Any) -> Pair:
        if not isinstance(entry, dict):
            raise _PairError(f"is {entry!r}, not a pair")
        image, target = self._path(entry, "image"), self._path(entry, "target_image")
        if image is None or target is None:
            raise _PairError(f"has no {'image' if image is None else 'target_image'!r}")
        references = self._references(entry)
        clip, frame = _optional(entry, "clip", str), _optional(entry, "frame", int)
        if (clip is None) != (frame is None):
            raise _PairError('has one of "clip" and "frame", needs both or none')
        return Pair(
            name,
            image,
            target,
            references,
            prompt=_optional(entry, "prompt", str) or "",
            mask=self._path(entry, "mask"),
            clip=clip,
            frame=frame,
            depth=self._path(entry, "depth"),
            cameras=_cameras(entry.get("cameras"), len(references)),
            source=_optional(entry, "source", (str, dict)),
        )

    def _references(self, entry: dict[str, Any]) -> tuple[Path, ...]:
        """Those of ``ref_images``; a ``ref_image`` that is not among them comes first."""
        names = _optional(entry, "ref_images", list) or []
        found = [self._resolve(name, "ref_images") for name in names]
        first = self._path(entry, "ref_image")
        return tuple(found if first is None or first in found else [first, *found])

    def _path(self, entry: dict[str, Any], key: str) -> Path | None:
        value = entry.get(key)
        return None if value is None else self._resolve(value, key)

    def _resolve(self, value: Any, key: str) -> Path:
        if not isinstance(value, str) or not value or "\0" in value:
            raise _PairError(f"{key!r} is {value!r}, not a path")
        path = (self.folder / value).resolve()
        if not (self.allow_outside or path.is_relative_to(self.folder)):
            raise _PairError(
                f"{key!r} is {value!r}, outside the pairs file's folder; allow that with --data.allow-outside"
            )
        return path


def _optional(entry: dict[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    value = entry.get(key)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise _PairError(f"{key!r} is {value!r}")
    return value


def _cameras(value: Any, references: int) -> PairCameras | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("references", []), list):
        raise _PairError('"cameras" should hold "image" and a list of "references"')
    others = tuple(_camera(item, f"reference {i}") for i, item in enumerate(value.get("references", [])))
    if len(others) != references:
        raise _PairError(f'"cameras" has {len(others)} references, there are {references} reference images')
    return PairCameras(_camera(value.get("image"), "image"), others)


def _camera(value: Any, name: str) -> PairCamera:
    if not isinstance(value, dict):
        raise _PairError(f'"cameras" has no camera of {name}')
    pose = _matrix(value.get("camera_to_world"), 4, f"camera_to_world of {name}")
    intrinsics = _matrix(value.get("intrinsics"), 3, f"intrinsics of {name}")
    try:
        check_poses(torch.tensor(pose, dtype=torch.float64)[None], [name])
    except ValueError as error:
        raise _PairError(str(error)) from error
    if not (intrinsics[0][0] > 0 and intrinsics[1][1] > 0):
        raise _PairError(f"intrinsics of {name} have focal lengths {intrinsics[0][0]}, {intrinsics[1][1]}")
    return PairCamera(pose, intrinsics)


def _matrix(value: Any, size: int, name: str) -> Matrix:
    rows = value if isinstance(value, list) and len(value) == size else [None]
    if not all(isinstance(row, list) and len(row) == size and all(map(_is_number, row)) for row in rows):
        raise _PairError(f"{name} should be a {size}x{size} list of numbers, got {value!r}")
    return tuple(tuple(map(float, row)) for row in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def raise_all(problems: list[str], what: str) -> None:
    """Raise an `InputError` of every problem, if there is any; a long list is cut, and counted."""
    if problems:
        more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise InputError("\n  ".join([f"{what}, {len(problems)} problems:", *problems[:_SHOWN], *more]))


def write_pairs(path: Path, train: Iterable[Pair], test: Iterable[Pair] = ()) -> None:
    """Write a pairs file, whole or not at all; paths inside its folder become relative.

    Raises:
        ValueError: when a split has two pairs of one name.
    """
    folder = path.resolve().parent
    content = {"train": _entries(train, folder), "test": _entries(test, folder)}
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _entries(pairs: Iterable[Pair], folder: Path) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        if pair.name in entries:
            raise ValueError(f"two pairs are named {pair.name!r}")
        entries[pair.name] = _entry(pair, folder)
    return entries


def _entry(pair: Pair, folder: Path) -> dict[str, Any]:
    def text(path: Path | None) -> str | None:
        if path is None:
            return None
        path = path.resolve()
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)

    references = [text(reference) for reference in pair.references]
    entry = {
        "image": text(pair.image),
        "target_image": text(pair.target_image),
        "ref_image": references[0] if references else None,  # all that Difix reads
        "ref_images": references if len(references) > 1 else None,
        "prompt": pair.prompt or None,
        "mask": text(pair.mask),
        "clip": pair.clip,
        "frame": pair.frame,
        "depth": text(pair.depth),
        "cameras": _camera_entries(pair.cameras) if pair.cameras else None,
        "source": pair.source,
    }
    return {key: value for key, value in entry.items() if value is not None}


def _camera_entries(cameras: PairCameras) -> dict[str, Any]:
    def entry(camera: PairCamera) -> dict[str, Any]:
        return {"camera_to_world": camera.camera_to_world, "intrinsics": camera.intrinsics}

    return {"image": entry(cameras.image), "references": [entry(camera) for camera in cameras.references]}
