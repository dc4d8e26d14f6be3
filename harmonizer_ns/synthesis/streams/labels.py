# SPDX-License-Identifier: Apache-2.0
"""Label maps of a clip come from files, from a face parser or another Segformer, or are simply the image's parts.

| source | path | labels |
|---|---|---|
| auto | - | the image's parts, by number: watershed of the first frame, followed by optical flow |
| files | folder of label images, in the scene's folder | their numbers; names where the folder has ``labels.json`` |
| model | Segformer: folder or Hub repository | the classes that its ``config.json`` names |

``labels.json`` maps names to numbers: ``{"skin": 1, "nose": 2}``.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import read_json
from harmonizer_ns.synthesis.streams.base import Clip
from harmonizer_ns.synthesis.streams.masks import read_label_maps, scene_folder
from harmonizer_ns.synthesis.streams.motion import Motion, small_images
from harmonizer_ns.synthesis.streams.segmenters import semantic_labels

_PATHS = {"auto": "", "files": "labels", "model": "jonathandinu/face-parsing"}  # when none is given
_PARTS = 10


@dataclass(frozen=True)
class LabelConfig:
    """These settings say where the regions of a clip come from."""

    source: Literal["auto", "files", "model"] = "auto"
    """What makes them (see the module)."""
    path: str = ""
    """What the source reads (see the module); empty: labels, or jonathandinu/face-parsing."""


@dataclass(frozen=True)
class Labels:
    """Labels are maps with the names of their numbers, where they have any."""

    maps: Int[Tensor, "n h w"]
    names: dict[str, int]


def find_labels(clip: Clip, config: LabelConfig, seed: int) -> Labels:
    """Find the label map of each frame, with the same labels all along.

    Raises:
        InputError: naming the map, names' file or model that cannot be read.
    """
    path = config.path or _PATHS[config.source]
    if config.source == "files":
        return Labels(read_label_maps(path, clip), _read_names(scene_folder(clip.files[0]) / path / "labels.json"))
    if config.source == "model":
        return Labels(*semantic_labels(clip.frames, path))
    return Labels(image_parts(clip.frames, seed), {})


def _read_names(path: Path) -> dict[str, int]:
    if not path.is_file():
        return {}
    names = read_json(path)
    if not all(type(number) is int for number in names.values()):
        raise InputError(f'{path} should map names to numbers, such as {{"skin": 1}}')
    return names


def image_parts(frames: Float[Tensor, "n 3 h w"], seed: int) -> Int[Tensor, "n h w"]:
    """Split the image along its edges into parts numbered from 1, and follow them.

    Watershed (Meyer 1992) from random places of the first frame; in each further frame from the inner part of where
    optical flow takes each region.
    """
    images = small_images(frames)
    maps = [_flood(images[0], _random_places(images[0].shape[:2], seed))]
    for before, image in itertools.pairwise(images):
        moved = Motion.between(before, image).move(maps[-1].astype(np.uint8))
        maps.append(_flood(image, _inner(moved)))
    small = torch.from_numpy(np.stack(maps))[:, None].float()
    return F.interpolate(small, frames.shape[-2:], mode="nearest")[:, 0].long().to(frames.device)


def _random_places(size: tuple[int, ...], seed: int) -> Int[np.ndarray, "h w"]:
    """Draw one small disc for each part, 0 elsewhere."""
    import cv2

    draw = random.Random(seed)
    markers = np.zeros(size, np.int32)
    for part in range(1, _PARTS + 1):
        place = draw.randrange(size[1]), draw.randrange(size[0])
        cv2.circle(markers, place, max(1, size[1] // 60), (part,), cv2.FILLED)
    return markers


def _inner(labels: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Keep labels away from their edges, 0 near them."""
    import cv2

    side = 2 * max(1, labels.shape[1] // 80) + 1
    kernel = np.ones((side, side), np.uint8)
    values = labels.astype(np.float32)
    return np.where(cv2.erode(values, kernel) == cv2.dilate(values, kernel), labels, 0).astype(np.int32)


def _flood(image: np.ndarray, markers: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Flood a smoothed image by watershed; the dams take the label of a neighbour."""
    import cv2

    if not markers.any():
        return markers
    smooth = cv2.pyrMeanShiftFiltering(image, 6, 20)
    labels = cv2.watershed(smooth, markers.copy())
    grown = cv2.dilate(labels.astype(np.float32), np.ones((3, 3), np.uint8)).astype(np.int32)
    return np.where(labels < 1, np.maximum(grown, 0), labels).astype(np.int32)
