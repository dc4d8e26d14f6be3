# SPDX-License-Identifier: Apache-2.0
"""Sources are what streams work on: scenes, their files, and what these hold."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harmonizer_ns.captures.capture import pose_files, read_views
from harmonizer_ns.captures.posed import PosedViews
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import file_digest
from harmonizer_ns.media import image_files
from harmonizer_ns.synthesis.streams.base import Source

_BESIDE = ("masks", "labels", "boxes.json")
"""Where streams look in a scene when their settings name no other place."""


@dataclass(frozen=True)
class SourceScene:
    """A scene is images that belong together.

    Args:
        name: of the scene; no other scene of a plan has it.
        folder: of the scene, resolved.
        files: its images in order, relative to the folder.
        photo: whether it is one photo of a folder of photos.
    """

    name: str
    folder: Path
    files: tuple[str, ...]
    photo: bool = False

    @property
    def place(self) -> tuple[Path, str]:
        """It is equal for the same scene in different streams."""
        return self.folder, self.files[0] if self.photo else ""


def capture_scene(folder: Path) -> SourceScene:
    """Take a folder as a posed capture.

    Raises:
        InputError: when it cannot be used.
    """
    return SourceScene(folder.name, folder, _views(folder).names)


def _views(folder: Path) -> PosedViews:
    try:
        return read_views(folder)
    except InputError as error:
        raise InputError(f"{folder} is no capture that can be used: {error}") from error


def folder_scene(folder: Path) -> tuple[SourceScene, str]:
    """Take the photos of a capture, or the images of the folder or its ``images``; also tells what hinders the former.

    Raises:
        InputError: when there are none.
    """
    note = ""
    if pose_files(folder):
        try:
            return capture_scene(folder), note
        except InputError as error:
            note = f"used without cameras: {error}"
    return SourceScene(folder.name, folder, _images(folder)), note


def photo_scenes(folder: Path) -> list[SourceScene]:
    """Take every image of the folder, or of its ``images``, as a scene of its own.

    Raises:
        InputError: when there are none.
    """
    return [SourceScene(Path(file).stem, folder, (file,), photo=True) for file in _images(folder)]


def _images(folder: Path) -> tuple[str, ...]:
    inner = folder / "images" if (folder / "images").is_dir() else folder
    return tuple(file.relative_to(folder).as_posix() for file in image_files(inner))


def named_apart(scenes: list[SourceScene]) -> list[SourceScene]:
    """Name scenes so that they can be folders; equal names get a part of their path's digest."""
    plain = [re.sub(r"[^A-Za-z0-9_-]+", "-", scene.name) for scene in scenes]
    counted = [name.lower() for name in plain]
    return [
        replace(scene, name=name if counted.count(name.lower()) == 1 else f"{name}-{_path_digest(scene)}")
        for scene, name in zip(scenes, plain, strict=True)
    ]


def _path_digest(scene: SourceScene) -> str:
    return hashlib.sha256(str(scene.folder / scene.files[0]).encode()).hexdigest()[:8]


def source_files(source: Source, folder: Path, files: tuple[str, ...], settings: dict[str, Any]) -> list[str]:
    """List all files that decide what an item looks like: images, cameras, and what its settings name in the scene.

    Args:
        source: what its stream takes.
        folder: of the scene.
        files: the images of a clip.
        settings: of the stream, as plain data.

    Raises:
        InputError: when a capture cannot be used.
    """
    if source == "nothing":
        return []
    if source == "capture":
        found = list(_views(folder).files)
    else:
        found = [*files, *(path.relative_to(folder).as_posix() for path in pose_files(folder))]
    stems = {Path(file).stem for file in found}
    for name in [*_BESIDE, *filter(None, _texts(settings))]:
        beside = _beside(folder, name)
        found += [file for file in beside if file == name or file.endswith(".json") or Path(file).stem in stems]
    return sorted(dict.fromkeys(found))


def _texts(value: Any) -> Iterator[str]:
    """Find all text in plain data."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def _beside(folder: Path, name: str) -> list[str]:
    """List a file of the scene, or all files of a folder of it."""
    if (folder / name).is_dir():
        inside = (path.relative_to(folder / name) for path in (folder / name).rglob("*") if path.is_file())
        return [f"{name}/{path.as_posix()}" for path in inside]
    return [name] if (folder / name).is_file() else []


@dataclass(frozen=True)
class Contents:
    """Contents knows the SHA-256 of files, and reads each once."""

    known: dict[Path, str] = field(default_factory=dict)

    def of(self, file: Path) -> str:
        """Digest one file's bytes.

        Raises:
            InputError: when it cannot be read.
        """
        if file not in self.known:
            try:
                self.known[file] = file_digest(file)
            except OSError as error:
                raise InputError(f"cannot read {file}: {error.strerror}") from error
        return self.known[file]

    def of_all(self, folder: Path, files: list[str]) -> str:
        """Digest several files with their names."""
        lines = "".join(f"{file}\0{self.of(folder / file)}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()
