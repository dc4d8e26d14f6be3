# SPDX-License-Identifier: Apache-2.0
"""The frames that a stream makes become files of one folder, and these become pairs again.

Frame 0 is 0000_image.png, 0000_target.png, and 0000_mask.png and 0000_depth.safetensors where there are such; each
reference photo is one reference_NAME.png; item.json holds a `Record` for each frame.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, TypedDict

from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import save_image, to_float, to_uint8
from harmonizer_ns.metrics import psnr
from harmonizer_ns.pairs import Pair, cameras_as_json, cameras_from_json
from harmonizer_ns.synthesis.streams.base import Made, NamedPhotos
from harmonizer_ns.types import Frames, cat_cameras

_HALF_RANGE = (6.2e-5, 6.5e4)
"""Where half floats have all their digits."""


class Record(TypedDict):
    """A record describes one frame in ``item.json``.

    Args:
        clip: number of its clip.
        frame: number in its clip.
        psnr: of the image against the target in dB, None where they are equal.
        parameters: all that was drawn.
        file: the target's file, "" when it was rendered.
        mask: whether it has one.
        references: file names of its reference photos.
        cameras: of the image and of the references as in a pairs file, None where they are unknown.
    """

    clip: int
    frame: int
    psnr: float | None
    parameters: dict[str, Any]
    file: str
    mask: bool
    references: list[str]
    cameras: dict[str, Any] | None


class FrameWriter:
    """A writer puts the frames of one item into a folder, and each reference photo once.

    Args:
        folder: that receives them.
        scene: the scene's folder; source files inside are named relative to it.
    """

    def __init__(self, folder: Path, scene: str) -> None:
        self._folder, self._scene = folder, scene
        self._references: dict[tuple[str, int, int], str] = {}
        self._clips: Counter[int] = Counter()
        self.records: list[Record] = []

    def write(self, made: Made) -> None:
        """Write the next frame.

        Raises:
            InputError: when its colours are not finite.
            ValueError: when its parts do not fit together.
        """
        _check(made)
        stem = self._folder / f"{len(self.records):04d}"
        image, target = (to_float(to_uint8(colours)) for colours in (made.image, made.target))
        save_image(_file(stem, "image.png"), image)
        save_image(_file(stem, "target.png"), target)
        if made.mask is not None:
            save_image(_file(stem, "mask.png"), made.mask.expand(3, -1, -1))
        if made.geometry is not None:
            _file(stem, "depth.safetensors").write_bytes(_depths(made.geometry, made.references))
        self.records.append(
            Record(
                clip=made.clip,
                frame=self._clips[made.clip],
                psnr=None if image.equal(target) else round(psnr(image[None], target[None]).item(), 3),
                parameters=made.parameters,
                file=_relative(made.source, self._scene),
                mask=made.mask is not None,
                references=self._write_references(made.references),
                cameras=_cameras(made),
            )
        )
        self._clips[made.clip] += 1

    def _write_references(self, references: NamedPhotos | None) -> list[str]:
        found = [] if references is None else zip(references.names, references.frames, strict=True)
        return [self._write_reference(name, photo.rgb[0]) for name, photo in found]

    def _write_reference(self, name: str, photo: Float[Tensor, "3 h w"]) -> str:
        key = (name, photo.shape[-2], photo.shape[-1])
        if key not in self._references:
            stem = f"reference_{re.sub('[^A-Za-z0-9_-]+', '-', name)}"
            while f"{stem}.png" in self._references.values():  # another size, or a name that reads alike
                stem += "_"
            save_image(self._folder / f"{stem}.png", photo)
            self._references[key] = f"{stem}.png"
        return self._references[key]


def _file(stem: Path, kind: str) -> Path:
    return stem.with_name(f"{stem.name}_{kind}")


def _check(made: Made) -> None:
    height, width = made.image.shape[-2:]
    if made.target.shape != made.image.shape or (made.mask is not None and made.mask.shape != (1, height, width)):
        raise ValueError(f"image, target and mask differ in size: {made.image.shape}, {made.target.shape}")
    for frames in (made.geometry, made.references.frames if made.references else None):
        if frames is not None and (frames.cameras.height, frames.cameras.width) != (height, width):
            raise ValueError(f"geometry or references have another size than the image, {width}x{height}")
    if made.references is not None and made.geometry is None:
        raise ValueError("references need the geometry of the image")
    if not (made.image.isfinite().all() and made.target.isfinite().all()):
        raise InputError("colours are not finite: the fit came apart, or a source image is damaged")


def _depths(geometry: Frames, references: NamedPhotos | None) -> bytes:
    """Make a depth file as `harmonizer_ns.pairs` describes it, in memory, so that a full disk is an OSError."""
    tensors = {"depth": geometry.depth[0, 0], "alpha": geometry.alpha[0, 0]}
    if references is not None:
        tensors["reference_depths"] = references.frames.depth[:, 0]
    return save({name: _compact(tensor) for name, tensor in tensors.items()})


def _compact(values: Tensor) -> Tensor:
    """Turn values into half floats where these are exact to 0.05% (their whole range)."""
    values = values.detach().cpu().contiguous()
    low, high = _HALF_RANGE
    fits = ((values == 0) | ((values >= low) & (values <= high))).all()
    return values.half() if fits else values.float()


def _relative(file: str, scene: str) -> str:
    path = Path(file)
    return path.relative_to(scene).as_posix() if scene and file and path.is_relative_to(scene) else file


def _cameras(made: Made) -> dict[str, Any] | None:
    if made.geometry is None:
        return None
    others = [made.references.frames.cameras] if made.references else []
    return cameras_as_json(cat_cameras([made.geometry.cameras, *others]))


def as_pairs(records: list[Record], folder: Path, name: str, source: dict[str, Any]) -> list[Pair]:
    """Describe the frames of an item as pairs.

    Args:
        records: of ``item.json``.
        folder: of the item.
        name: of the item; pairs are called ``NAME/0000``, clips ``NAME/clip0``.
        source: provenance of the item.
    """
    lengths = Counter(record["clip"] for record in records)
    pairs = []
    for number, record in enumerate(records):
        stem, moves = folder / f"{number:04d}", lengths[record["clip"]] > 1
        image = _file(stem, "image.png")
        pairs.append(
            Pair(
                f"{name}/{number:04d}",
                image,
                _file(stem, "target.png"),
                references=tuple(folder / file for file in record["references"]),
                mask=_file(stem, "mask.png") if record["mask"] else None,
                clip=f"{name}/clip{record['clip']}" if moves else None,
                frame=record["frame"] if moves else None,
                depth=_file(stem, "depth.safetensors") if record["cameras"] else None,
                cameras=cameras_from_json(record["cameras"], image, len(record["references"])),
                source={**source, "file": record["file"], "parameters": record["parameters"]},
            )
        )
    return pairs
