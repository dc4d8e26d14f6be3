# SPDX-License-Identifier: Apache-2.0
"""The frames that a stream makes become files of one folder: an item, whose ``item.json`` is a pairs file of its own.

Frame 0 is 0000_image.png, 0000_target.png, and 0000_mask.png and 0000_depth.safetensors where there are such; each
reference photo is one reference_NAME.png.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import save_image, to_float, to_uint8
from harmonizer_ns.metrics import psnr
from harmonizer_ns.pairs import Pair, write_pairs
from harmonizer_ns.synthesis.recipes.plan import PlannedItem
from harmonizer_ns.synthesis.streams.base import Made, NamedPhotos
from harmonizer_ns.types import Cameras, Frames, cat_cameras

_HALF_RANGE = (6.2e-5, 6.5e4)
"""Where half floats have all their digits."""


class FrameWriter:
    """A writer puts the frames of one item into a folder, and each reference photo once.

    Args:
        folder: that receives them.
        item: what they are; pairs are called ``NAME/0000``, clips ``NAME/clip0``.
    """

    def __init__(self, folder: Path, item: PlannedItem) -> None:
        self._folder, self._item = folder, item
        self._references: dict[tuple[str, int, int], Path] = {}
        self._clips: Counter[str | None] = Counter()
        self._pairs: list[Pair] = []

    def write(self, made: Made) -> None:
        """Write the next frame.

        Raises:
            InputError: when its colours are not finite.
            ValueError: when its parts do not fit together.
        """
        _check(made)
        number, clip = f"{len(self._pairs):04d}", f"{self._item.name}/clip{made.clip}"
        names = ("image.png", "target.png", "mask.png", "depth.safetensors")
        image_file, target_file, mask_file, depth_file = (self._folder / f"{number}_{name}" for name in names)
        image, target = (to_float(to_uint8(colours)) for colours in (made.image, made.target))
        save_image(image_file, image)
        save_image(target_file, target)
        if made.mask is not None:
            save_image(mask_file, made.mask.expand(3, -1, -1))
        if made.geometry is not None:
            depth_file.write_bytes(_depths(made.geometry, made.references))
        self._pairs.append(
            Pair(
                f"{self._item.name}/{number}",
                image_file,
                target_file,
                references=self._write_references(made.references),
                mask=mask_file if made.mask is not None else None,
                clip=clip,
                frame=self._clips[clip],
                depth=depth_file if made.geometry is not None else None,
                cameras=_cameras(made),
                source={
                    "digest": self._item.digest,
                    "psnr": None if image.equal(target) else round(psnr(image[None], target[None]).item(), 3),
                    "file": _relative(made.source, self._item.folder),
                    "parameters": json.loads(json.dumps(made.parameters, sort_keys=True)),
                },
            )
        )
        self._clips[clip] += 1

    def finish(self) -> None:
        """Write ``item.json``; a frame that is alone is no clip.

        Raises:
            InputError: when there are no frames, or no room for the file.
        """
        if not self._pairs:
            raise InputError(f"{self._item.kind} made nothing of {self._item.folder or 'its settings'}")
        single = {"clip": None, "frame": None}
        pairs = [pair if self._clips[pair.clip] > 1 else replace(pair, **single) for pair in self._pairs]
        write_pairs(self._folder / "item.json", pairs)

    def _write_references(self, references: NamedPhotos | None) -> tuple[Path, ...]:
        found = [] if references is None else zip(references.names, references.frames, strict=True)
        return tuple(self._write_reference(name, photo.rgb[0]) for name, photo in found)

    def _write_reference(self, name: str, photo: Float[Tensor, "3 h w"]) -> Path:
        key = (name, photo.shape[-2], photo.shape[-1])
        if key not in self._references:
            file = self._folder / f"reference_{re.sub('[^A-Za-z0-9_-]+', '-', name)}.png"
            while file in self._references.values():  # another size, or a name that reads alike
                file = file.with_stem(f"{file.stem}_")
            save_image(file, photo)
            self._references[key] = file
        return self._references[key]


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


def _cameras(made: Made) -> Cameras | None:
    """Join the cameras of the image and of its references."""
    if made.geometry is None:
        return None
    others = [made.references.frames.cameras] if made.references else []
    return cat_cameras([made.geometry.cameras, *others])
