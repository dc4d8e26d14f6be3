# SPDX-License-Identifier: Apache-2.0
"""A capture is prepared as a protocol wants it: split, resized, and without seed points that only judged photos saw.

What comes out is a capture in nerfstudio's format, with no photo but those that train or are judged, so that any
trainer can be judged on exactly the same data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harmonizer_ns.captures.capture import Capture, Photo, load_capture, pose_files, resized_pixels
from harmonizer_ns.captures.writing import write_transforms
from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation.protocols import Protocol
from harmonizer_ns.evaluation.splits import Split, TooFewPhotosError
from harmonizer_ns.files import content_digest, read_json, write_json, written_whole
from harmonizer_ns.spread import evenly_spread
from harmonizer_ns.strict_dataclasses import build

SHOWN_BY = 2
"""So many photos that train must show a seed point."""
_ABOUT = "prepared.json"
_GIVEN = "all of the capture's: "


@dataclass(frozen=True)
class PreparedScene:
    """Is a capture that is ready to train on.

    Args:
        name: of the scene, with that of the split where there are several.
        digest: sha256 of all that a trainer learns from it.
        train: photos that train.
        judged: photos that are judged.
        points: seed points.
        seeds: which points these are.
    """

    name: str
    digest: str
    train: int
    judged: int
    points: int
    seeds: str

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.train} photos train, {self.judged} are judged; {self.points} seed points, {self.seeds}"
        )


def prepare(
    protocol: Protocol, scenes: Sequence[Path], output: Path, left_out: list[str] | None = None
) -> list[PreparedScene]:
    """Prepare scenes in ``output/scenes``, each by every split; what is there already and the same stays.

    Scenes that are too small for a split are told in ``left_out``; None: that is an error.

    Raises:
        InputError: naming the capture, or two captures of one name; and when nothing is left.
    """
    names = [scene.resolve().name for scene in scenes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"several scenes are named {twice[0]!r}; rename a folder, or judge them apart")
    several, prepared, small = len(protocol.splits) > 1, [], []
    for name, scene in zip(names, scenes, strict=True):
        capture = _load(scene, protocol)
        for kind, split in protocol.splits.items():
            try:
                prepared.append(_prepared(f"{name}-{kind}" if several else name, capture, split, protocol, output))
            except TooFewPhotosError as error:  # noqa: PERF203 (the next split may do)
                small.append(f"the split {kind!r} of {error}")
    if small and (left_out is None or not prepared):
        raise InputError("\n  ".join(small))
    if left_out is not None:
        left_out += small
    return prepared


def folder_of(output: Path, scene: str) -> Path:
    """Name the folder of a prepared scene."""
    return output / "scenes" / scene


def _prepared(name: str, whole: Capture, split: Split, protocol: Protocol, output: Path) -> PreparedScene:
    capture, seeds = _split(whole, split, protocol.judged)
    photos = sorted((*capture.train, *capture.test))
    read = _Resized(capture, protocol.resize)
    digest = _digest(capture, photos, read)
    counts = {"train": len(capture.train), "judged": len(capture.test), "points": len(capture.points)}
    prepared = PreparedScene(name, digest, **counts, seeds=seeds)
    folder = folder_of(output, name)
    if not (folder / _ABOUT).is_file() or build(PreparedScene, read_json(folder / _ABOUT), str(folder)) != prepared:
        with written_whole(folder) as partial:
            partial.mkdir()
            write_transforms(partial, capture, photos, read)
            write_json(partial / _ABOUT, asdict(prepared))
    return prepared


def _load(scene: Path, protocol: Protocol) -> Capture:
    """Read a capture; its cameras have the protocol's size, its photos have it only where they come so.

    DL3DV's benchmark keeps captures in a folder ``nerfstudio`` of their scenes.
    """
    name, inner = scene.resolve().name, scene / "nerfstudio"
    scene = inner if inner.is_dir() and not pose_files(scene) else scene
    smaller = protocol.factor if (scene / f"images_{protocol.factor}").is_dir() else 1
    capture = load_capture(scene, factor=smaller, with_tracks=True)
    share = smaller / protocol.factor
    cameras = []
    for camera in capture.cameras:
        width = protocol.width or max(1, round(camera.width * share))
        cameras.append(camera.resized_to_width(width))
    return replace(capture, name=name, cameras=cameras)


def _split(capture: Capture, split: Split, most: int | None) -> tuple[Capture, str]:
    """Split a capture, and leave out the seed points that photos which train do not bear out."""
    sides, before, keeps = split.of(capture), len(capture.points), split.keeps(capture)
    capture = replace(capture, train=sides.train, test=tuple(evenly_spread(sides.judged, most or len(sides.judged))))
    if keeps:
        return capture, f"{_GIVEN}it comes with its own split"
    if capture.seen is None:
        return capture, f"{_GIVEN}it does not say which photos show them, so held-out photos may have helped"
    capture = capture.seeded_by(sides.train, SHOWN_BY)
    return capture, f"those of {before} that at least {SHOWN_BY} photos which train show"


@dataclass(frozen=True)
class _Resized:
    """Reads photos of a capture at the sizes of its cameras."""

    capture: Capture
    how: str

    def __call__(self, index: int) -> Photo:
        photo, mask = self.capture.read(index)
        size = self.capture.cameras[index].width, self.capture.cameras[index].height
        pixels = resized_pixels(photo.permute(1, 2, 0).numpy(), size, Image.Resampling[self.how.upper()])
        bytes_ = None if mask is None else mask[0].numpy().astype(np.uint8) * 255
        counts = None if bytes_ is None else resized_pixels(bytes_, size, Image.Resampling.BOX) > 127
        return torch.from_numpy(pixels).permute(2, 0, 1), None if counts is None else torch.from_numpy(counts)[None]


def _digest(capture: Capture, photos: list[int], read: _Resized) -> str:
    parts: list[Tensor | str] = [repr((capture.train, capture.test))]
    for index in photos:
        camera = capture.cameras[index]
        photo, mask = read(index)
        parts += [photo, camera.camera_to_world, camera.intrinsics, *(() if mask is None else (mask,))]
    return content_digest([*parts, capture.points, capture.colors])
