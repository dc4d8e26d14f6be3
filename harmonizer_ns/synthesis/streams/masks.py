# SPDX-License-Identifier: Apache-2.0
"""Foreground masks of a clip are made here, whatever they come from; label maps are read from files.

    mask = foreground(clip, MaskConfig("files", "masks"), seed)   # n 1 h w, 0 or 1
    soft = feather(mask, 2)                                       # inside the mask only

| source | path | mask |
|---|---|---|
| auto | - | an object that GrabCut finds in the first frame, followed by optical flow (`grabcut`) |
| files | folder of images, in the scene's folder | where the image with the frame's name is not 0 |
| boxes | JSON file of 3D boxes, in the scene's folder | one box, projected (`boxes`) |
| sam | SAM 2 or SAM 3: folder or Hub repository | what the model makes of one object (`segmenters`) |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import local_mean
from harmonizer_ns.synthesis.streams.base import Clip
from harmonizer_ns.synthesis.streams.boxes import box_mask
from harmonizer_ns.synthesis.streams.grabcut import object_mask
from harmonizer_ns.synthesis.streams.segmenters import sam_mask

_PATHS = {
    "auto": "",
    "files": "masks",
    "boxes": "boxes.json",
    "sam": "facebook/sam2.1-hiera-tiny",
}  # when none is given


@dataclass(frozen=True)
class MaskConfig:
    """These settings say where the foreground of a clip comes from."""

    source: Literal["auto", "files", "boxes", "sam"] = "auto"
    """What makes it (see the module)."""
    path: str = ""
    """What the source reads (see the module); empty: masks, boxes.json or facebook/sam2.1-hiera-tiny."""
    share: tuple[float, float] = (0.03, 0.4)
    """Smallest and largest share of the first frame that an object found by auto may cover."""

    def __post_init__(self) -> None:
        if not 0 < self.share[0] < self.share[1] < 1:
            raise ValueError(f"the mask's share should be a range within 0 and 1, got {self.share}")


def foreground(clip: Clip, config: MaskConfig, seed: int) -> Float[Tensor, "n 1 h w"]:
    """Mask one foreground, the same object in every frame; 1 inside, 0 outside.

    Args:
        clip: the frames; files and boxes are looked up in the folder of their scene.
        config: where it comes from.
        seed: of the choice among objects.

    Raises:
        InputError: when the masks are missing or unreadable, or empty in every frame.
    """
    path = config.path or _PATHS[config.source]
    scene = scene_folder(clip.files[0])
    if config.source == "files":
        mask = read_label_maps(path, clip)[:, None] > 0
    elif config.source == "boxes":
        mask = box_mask(clip, scene / path, seed)
    elif config.source == "sam":
        mask = sam_mask(clip, path, scene / _PATHS["boxes"], config.share, seed)
    else:
        mask = object_mask(clip.frames, config.share, seed)
    if not mask.any():
        raise InputError(f"the mask of {clip.files[0]} ({config.source} {path}) is empty in each of its frames")
    return mask.float()


def scene_folder(frame: Path) -> Path:
    """Find the folder of a frame's scene: that of ``transforms.json``, above ``images`` where there is one."""
    return frame.parent.parent if frame.parent.name == "images" else frame.parent


def read_label_maps(folder: str, clip: Clip) -> Int[Tensor, "n h w"]:
    """Read the label map of each frame, ``SCENE/folder/NAME.png``, at the frames' size by the nearest pixel.

    Raises:
        InputError: naming the map that is missing or unreadable.
    """
    size = clip.frames.shape[-1], clip.frames.shape[-2]
    maps = [_read_labels(scene_folder(file) / folder / f"{file.stem}.png", size) for file in clip.files]
    return torch.from_numpy(np.stack(maps))


def _read_labels(path: Path, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            labels = opened if opened.mode in ("L", "P", "I;16", "I", "1") else opened.convert("L")
            return np.array(labels.resize(size, Image.Resampling.NEAREST)).astype(np.int64)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the mask {path}: {error}; each frame has a PNG of its name there") from error


def feather(mask: Float[Tensor, "n 1 h w"], pixels: int) -> Float[Tensor, "n 1 h w"]:
    """Soften edges inward over about ``pixels``: what was 0 stays 0, and image borders are no edges."""
    if pixels < 1:
        return mask
    inner = -F.max_pool2d(-mask, 2 * pixels + 1, 1, pixels)
    soft = local_mean(inner, 2 * pixels + 1)
    return torch.where(mask > 0, soft, torch.zeros_like(soft)).clamp(0, 1)
