# SPDX-License-Identifier: Apache-2.0
"""These small files of splats lose a little: PlayCanvas' compressed PLY and Niantic's .spz. The codec is gsply's.

Both keep the frame of the PLY. The .spz format stores no frame; Niantic's own converter does the same, although their
documentation speaks of y up: a viewer that holds to it shows the scene turned by half a turn about x.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from harmonizer_ns.errors import InputError, of_extra

_CHUNK = 256
"""Gaussians of a compressed PLY that share one range of positions, sizes and colours."""
_SPZ_BITS = 24
_SPZ_REACH = 2048.0
"""What the 12 fractional bits of other writers of .spz hold."""
_MANY = 0.01
"""More than this share of Gaussians out of reach are no floaters but the scene."""


def require_gsply(purpose: str) -> Any:
    """Import the codec.

    Raises:
        InputError: when it is not installed; says how to.
    """
    with of_extra("splats", purpose):
        import gsply
        import zstandard  # noqa: F401 - gsply reads version 4 of .spz with it, and can do without
    return gsply


def write_compressed_ply(path: Path, splats: Mapping[str, Tensor]) -> None:
    """Write about a quarter of the PLY; positions get 10 or 11 bits within the box of their chunk."""
    gsply = require_gsply("writing a compressed PLY")
    order = _in_chunks(splats["means"].numpy())
    path.write_bytes(gsply.compress_to_bytes(_packed(gsply, {name: value[order] for name, value in splats.items()})))


def write_spz(path: Path, splats: Mapping[str, Tensor]) -> None:
    """Write about a fifth of the PLY, as version 3; positions are on one grid, all else has 8 to 10 bits."""
    gsply = require_gsply("writing .spz")
    gsply.write_spz(path, _packed(gsply, splats), version=3, fractional_bits=fractional_bits(splats["means"]))


def read_compressed_ply(path: Path) -> dict[str, Tensor]:
    """Read the splats of a compressed PLY.

    Raises:
        InputError: when the file is broken.
    """
    return _read(path, require_gsply(f"{path} is a compressed PLY: reading it").plyread)


def read_spz(path: Path) -> dict[str, Tensor]:
    """Read the splats of an .spz.

    Raises:
        InputError: when the file is broken.
    """
    return _read(path, require_gsply(f"reading {path}").read_spz)


def fractional_bits(means: Float[Tensor, "n 3"]) -> int:
    """Find the finest grid whose 24-bit numbers hold the positions.

    A few floaters beyond the usual reach are clamped to it: a grid that held them would be coarser for all others.
    """
    reach = means.abs().amax(dim=1)
    most = reach.max().item()
    if (reach >= _SPZ_REACH).float().mean() <= _MANY:
        most = min(most, math.nextafter(_SPZ_REACH, 0.0))
    return min(max(_SPZ_BITS - 1 - math.frexp(most)[1], 1), _SPZ_BITS)


def _in_chunks(points: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, " n"]:
    """Order points so that every chunk of consecutive ones is compact: halve along the most spread axis, again."""

    def halved(rows: Int[np.ndarray, " m"]) -> list[Int[np.ndarray, " c"]]:
        if len(rows) <= _CHUNK:
            return [rows]
        inside = points[rows]
        middle = math.ceil(len(rows) / _CHUNK) // 2 * _CHUNK
        order = np.argpartition(inside[:, inside.std(axis=0).argmax()], middle)
        return halved(rows[order[:middle]]) + halved(rows[order[middle:]])

    return np.concatenate(halved(np.arange(len(points))))


def _packed(gsply: Any, splats: Mapping[str, Tensor]) -> Any:
    values = {name: value.numpy() for name, value in splats.items()}
    return gsply.GSData.from_arrays(**values | {"sh0": values["sh0"][:, 0]}, format="ply")


def _read(path: Path, read: Callable[[Path], Any]) -> dict[str, Tensor]:
    from zstandard import ZstdError

    try:
        data = read(path)
    except (OSError, ValueError, EOFError, struct.error, ZstdError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    names = ("means", "scales", "quats", "opacities", "sh0")
    splats = {name: torch.from_numpy(np.array(getattr(data, name), np.float32)) for name in names}
    count = len(splats["means"])
    rest = np.zeros((count, 0, 3), np.float32) if data.shN is None else np.array(data.shN, np.float32)
    return splats | {"sh0": splats["sh0"][:, None], "shN": torch.from_numpy(rest.reshape(count, -1, 3))}
