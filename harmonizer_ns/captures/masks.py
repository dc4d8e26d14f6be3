# SPDX-License-Identifier: Apache-2.0
"""Find and read masks: black hides a pixel of a photo, everything else lets it count, as in COLMAP."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from harmonizer_ns.captures.photos import Size, with_any_suffix
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import opened_image

logger = logging.getLogger(__name__)

_JPEG_NOISE = 15
"""What JPEG makes of black stays below this grey level."""


def find_masks(folder: Path, names: Sequence[str]) -> list[Path | None]:
    """Find the mask of each photo in a folder; None where a photo has none, which is said.

    For ``cam/a.jpg`` these are ``cam/a.jpg.png`` (COLMAP), ``cam/a.*`` and ``cam/a_mask.png``, also without ``cam/``.

    Args:
        folder: of the masks.
        names: of the photos, as paths below the image folder.

    Raises:
        InputError: when there is no such folder, or it fits no photo; the message lists the names looked for.
    """
    if not folder.is_dir():
        raise InputError(f"the folder of masks {folder} does not exist")
    found = [
        next((path for path in with_any_suffix(_candidates(folder, name)) if path.is_file()), None) for name in names
    ]
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if len(missing) == len(names):
        looked_for = ", ".join(str(path.relative_to(folder)) for path in _candidates(folder, names[0]))
        raise InputError(
            f"no mask in {folder} fits a photo; looked for {looked_for} (and so on for {len(names)} photos)"
        )
    if missing:
        logger.warning(
            "%d of %d photos have a mask in %s; of the others, such as %s, all pixels count",
            len(names) - len(missing),
            len(names),
            folder,
            missing[0],
        )
    return found


def _candidates(folder: Path, name: str) -> list[Path]:
    paths = [Path(name)] if Path(name).name == name else [Path(name), Path(Path(name).name)]
    return [
        folder / candidate
        for path in paths
        for candidate in (path.with_name(f"{path.name}.png"), path, path.with_name(f"{path.stem}_mask.png"))
    ]


def read_mask(path: Path, size: Size) -> np.ndarray:
    """Read which pixels of a photo count, as booleans ``h w`` at the photo's width and height.

    Raises:
        InputError: when it cannot be read.
    """
    with opened_image(path) as image:
        black = _JPEG_NOISE if image.format == "JPEG" else 0
        values = np.array(image.convert("RGBA") if image.mode in ("P", "PA") else image)
    if values.ndim == 3:
        values = values[..., : 1 if values.shape[2] == 2 else 3].max(axis=2)  # alpha is no part of a mask
    counts = Image.fromarray(np.asarray(values > black, np.uint8))
    return np.array(counts.resize(size, Image.Resampling.NEAREST)) > 0
