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
| cameras | optional ``{"image": CAMERA, "references": [CAMERA, ...], "width": W, "height": H}``, a reference for each
  photo, where CAMERA is ``{"camera_to_world": 4x4, "intrinsics": 3x3}``: OpenCV axes, pixels of the image's size, which
  is read from the image where it is not given |
| source | optional text or JSON object: the recipe that made the pair |

Paths are relative to the file's folder. Other keys are left alone. References have the image's size when cameras are
given, and may otherwise have any. A depth file holds ``depth`` [h, w], z-depth in scene units, 0 where unknown;
optionally ``alpha`` [h, w], opacity in [0, 1], and ``reference_depths`` [r, h, w]; all of the image's size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import read_json, write_json
from harmonizer_ns.images import image_size
from harmonizer_ns.poses import check_intrinsics, check_poses, matrix_from_json
from harmonizer_ns.types import Cameras

_SHOWN = 20


@dataclass(frozen=True)
class Pair:
    """A damaged image and what it should look like; see the module's table.

    ``cameras`` holds the image's camera and then one for each reference. Equal pairs may differ in their cameras.
    """

    name: str
    image: Path
    target_image: Path
    references: tuple[Path, ...] = ()
    prompt: str = ""
    mask: Path | None = None
    clip: str | None = None
    frame: int | None = None
    depth: Path | None = None
    cameras: Cameras | None = field(default=None, compare=False)
    source: str | dict[str, Any] | None = None

    @property
    def scene(self) -> str:
        """What it shows, by its provenance, its clip or its own name."""
        source = self.source if isinstance(self.source, dict) else {}
        return Path(str(source.get("scene", self.clip or self.name))).name

    @property
    def stream(self) -> str:
        """What damaged it, by its provenance; "" when that does not tell."""
        return str(self.source.get("stream", "")) if isinstance(self.source, dict) else ""

    @property
    def has_geometry(self) -> bool:
        """Whether depth and cameras are known."""
        return self.depth is not None and self.cameras is not None


@dataclass(frozen=True)
class Pairs:
    """What a pairs file holds."""

    train: tuple[Pair, ...]
    test: tuple[Pair, ...] = ()


def read_pairs(path: Path, allow_outside: bool = False) -> Pairs:
    """Read a pairs file; images are not opened, but for the size of cameras that do not tell it.

    Args:
        path: of the JSON file.
        allow_outside: accept paths that leave the file's folder, symbolic links resolved.

    Raises:
        InputError: naming everything that is wrong with it.
    """
    content = read_json(path)
    problems: list[str] = []
    reader = _Reader(path.resolve().parent, allow_outside)
    splits = {split: tuple(_read_split(content, split, reader, problems)) for split in ("train", "test")}
    if not problems and not any(splits.values()):
        problems = ['it holds no pairs: neither "train" nor "test" names any']
    raise_all(problems, f"{path} is no good pairs file")
    return Pairs(**splits)


def _read_split(content: dict[str, Any], split: str, reader: _Reader, problems: list[str]) -> Iterator[Pair]:
    entries = content.get(split, {})
    if not isinstance(entries, dict):
        problems.append(f'"{split}" should map names to pairs')
        return
    for name, entry in entries.items():
        try:
            yield reader.pair(name, entry)
        except InputError as problem:  # noqa: PERF203 (all problems are told at once)
            problems.append(f"{split}/{name}: {problem}")


@dataclass(frozen=True)
class _Reader:
    folder: Path
    allow_outside: bool

    def pair(self, name: str, entry: Any) -> Pair:
        if not isinstance(entry, dict):
            raise InputError(f"is {entry!r}, not a pair")
        image, target = self._path(entry, "image"), self._path(entry, "target_image")
        if image is None or target is None:
            raise InputError(f"has no {'image' if image is None else 'target_image'!r}")
        references = self._references(entry)
        clip, frame = _optional(entry, "clip", str), _optional(entry, "frame", int)
        if (clip is None) != (frame is None):
            raise InputError('has one of "clip" and "frame", needs both or none')
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
            cameras=cameras_from_json(entry.get("cameras"), image, len(references)),
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
            raise InputError(f"{key!r} is {value!r}, not a path")
        path = (self.folder / value).resolve()
        if not (self.allow_outside or path.is_relative_to(self.folder)):
            raise InputError(
                f"{key!r} is {value!r}, outside the pairs file's folder; allow that with --allow-outside (evaluate) or "
                "--data.allow-outside (train)"
            )
        return path


def _optional(entry: dict[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    value = entry.get(key)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise InputError(f"{key!r} is {value!r}")
    return value


def cameras_from_json(value: Any, image: Path, references: int) -> Cameras | None:
    """The cameras of an image and of its references, as `cameras_as_json` wrote them; None of None.

    Args:
        value: see the module's table.
        image: is asked for width and height where they are not told.
        references: how many there are.

    Raises:
        InputError: when one of them is no rigid pinhole camera, or the image cannot be read.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("references", []), list):
        raise InputError('"cameras" should hold "image" and a list of "references"')
    others = value.get("references", [])
    if len(others) != references:
        raise InputError(f'"cameras" has {len(others)} references, there are {references} reference images')
    names = ["image", *(f"reference {i}" for i in range(references))]
    poses, intrinsics = map(torch.stack, zip(*map(_camera, [value.get("image"), *others], names), strict=True))
    size = _optional(value, "width", int), _optional(value, "height", int)
    try:
        check_poses(poses, names)
        cameras = Cameras(poses, intrinsics, *(size if all(size) else image_size(image)))
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from error
    for matrix, name in zip(intrinsics, names, strict=True):
        check_intrinsics(matrix, cameras.width, cameras.height, f"intrinsics of {name}")
    return cameras


def cameras_as_json(cameras: Cameras) -> dict[str, Any]:
    """The camera of an image, then those of its references, as the module's table describes them."""
    poses, intrinsics = cameras.camera_to_world.tolist(), cameras.intrinsics.tolist()
    image, *others = ({"camera_to_world": p, "intrinsics": k} for p, k in zip(poses, intrinsics, strict=True))
    return {"image": image, "references": others, "width": cameras.width, "height": cameras.height}


def _camera(value: Any, name: str) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    """Pose and intrinsics."""
    if not isinstance(value, dict):
        raise InputError(f'"cameras" has no camera of {name}')
    pose = matrix_from_json(value.get("camera_to_world"), (4, 4), f"camera_to_world of {name}").float()
    return pose, matrix_from_json(value.get("intrinsics"), (3, 3), f"intrinsics of {name}").float()


def raise_all(problems: list[str], what: str) -> None:
    """Raise an `InputError` of every problem, if there is any; a long list is cut, and counted."""
    if problems:
        more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise InputError("\n  ".join([f"{what}, {len(problems)} problems:", *problems[:_SHOWN], *more]))


def write_pairs(path: Path, train: Iterable[Pair], test: Iterable[Pair] = ()) -> None:
    """Write a pairs file, whole or not at all; paths inside its folder become relative.

    Raises:
        InputError: when the file cannot be written.
        ValueError: when a split has two pairs of one name.
    """
    folder = path.resolve().parent
    content = {"train": _entries(train, folder), "test": _entries(test, folder)}
    write_json(path, content)


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
        "cameras": pair.cameras and cameras_as_json(pair.cameras),
        "source": pair.source,
    }
    return {key: value for key, value in entry.items() if value is not None}
