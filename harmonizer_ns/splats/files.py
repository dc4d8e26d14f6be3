# SPDX-License-Identifier: Apache-2.0
"""Splats are read from the PLY layout of Kerbl et al., compressed PLY, .spz, gsplat's .pt and splatfacto's .ckpt.

The first three are written, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import ply_columns, read_torch, written_whole
from harmonizer_ns.splats.compressed import read_compressed_ply, read_spz, write_compressed_ply, write_spz
from harmonizer_ns.splats.model import NAMES, SPLATFACTO, base_harmonics, from_splatfacto

SplatFormat = Literal["ply", "ply_compressed", "spz"]
SUFFIXES: dict[SplatFormat, str] = {"ply": ".ply", "ply_compressed": ".compressed.ply", "spz": ".spz"}


def read_splats(path: Path) -> dict[str, Tensor]:
    """Read splats from a file to the CPU; its suffix says which kind it is.

    Raises:
        InputError: when the file is missing, cannot be read, or holds something else; the message says what.
    """
    readers = {".ply": read_ply, ".spz": read_spz, ".pt": read_gsplat, ".ckpt": read_splatfacto}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: splats are read from .ply, .spz, .pt (gsplat) and .ckpt (splatfacto)")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    return _checked(readers[path.suffix.lower()](path), path)


def _checked(splats: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    count = len(splats["means"])
    for name, shape in {"means": (3,), "scales": (3,), "quats": (4,), "opacities": (), "sh0": (1, 3)}.items():
        if tuple(splats[name].shape) != (count, *shape):
            raise InputError(f"{path}: {name} has shape {tuple(splats[name].shape)}, expected {(count, *shape)}")
    rest = splats["shN"].shape[1]
    if math.isqrt(rest + 1) ** 2 != rest + 1 or rest > 15:
        raise InputError(f"{path}: {rest} view-dependent colour coefficients, expected 0, 3, 8 or 15")
    return _finite(splats, path)


def _finite(splats: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Keep the Gaussians whose numbers are all finite."""
    finite = torch.stack([torch.isfinite(value[..., None]).flatten(1).all(1) for value in splats.values()]).all(0)
    if not finite.any():
        raise InputError(f"{path} holds no Gaussian with finite values")
    return {name: value[finite].contiguous() for name, value in splats.items()}


def write_splats(path: Path, splats: Mapping[str, Tensor], kind: SplatFormat = "ply") -> None:
    """Write a file that viewers read; it appears when it is whole.

    Raises:
        InputError: when it cannot be written, or needs a codec that is not installed.
    """
    values = {name: splats[name].detach().float().cpu() for name in NAMES}
    if kind != "ply":
        values = _finite(values, path)  # one broken Gaussian would spoil the range of its whole chunk
    write = {"ply": _write_rows, "ply_compressed": write_compressed_ply, "spz": write_spz}[kind]
    with written_whole(path) as partial:
        write(partial, values)


# --- PLY --------------------------------------------------------------------------------------------------------------


def read_ply(path: Path) -> dict[str, Tensor]:
    """Read a PLY of splats, compressed or not; without spherical harmonics its plain colours give a degree of 0."""
    elements = ply_columns(path)
    if "chunk" in elements:
        return read_compressed_ply(path)
    columns = elements.get("vertex", {})
    needed = ("x", "y", "z", "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4)))
    missing = [name for name in needed if name not in columns]
    if missing:
        raise InputError(f"{path} is not a PLY of splats: it has no {', '.join(missing)}")
    return {
        "means": _stack(columns, ("x", "y", "z")),
        "scales": _stack(columns, [f"scale_{i}" for i in range(3)]),
        "quats": _stack(columns, [f"rot_{i}" for i in range(4)]),
        "opacities": _stack(columns, ["opacity"])[:, 0],
        "sh0": _base_color(columns, path),
        "shN": _rest(columns, path),
    }


def _stack(columns: dict[str, np.ndarray], names: Any) -> Tensor:
    return torch.from_numpy(np.stack([columns[name].astype(np.float32) for name in names], axis=1))


def _base_color(columns: dict[str, np.ndarray], path: Path) -> Float[Tensor, "n 1 3"]:
    harmonic, plain = [f"f_dc_{i}" for i in range(3)], ("red", "green", "blue")
    if all(name in columns for name in harmonic):
        return _stack(columns, harmonic)[:, None]
    if not all(name in columns for name in plain):
        raise InputError(f"{path} has no colours: neither f_dc_0..2 nor red, green and blue")
    return base_harmonics(_stack(columns, plain) / 255)


def _rest(columns: dict[str, np.ndarray], path: Path) -> Tensor:
    """Unpack what is stored channel by channel: all coefficients of red, then green, then blue."""
    names = [name for name in columns if name.startswith("f_rest_")]
    count = len(names)
    if count % 3 or set(names) != {f"f_rest_{i}" for i in range(count)}:
        raise InputError(f"{path}: f_rest_* has {count} entries, expected f_rest_0 up to a multiple of three")
    if not count:
        return torch.zeros(len(columns["x"]), 0, 3)
    return _stack(columns, [f"f_rest_{i}" for i in range(count)]).reshape(-1, 3, count // 3).transpose(1, 2)


def _write_rows(path: Path, values: Mapping[str, Tensor]) -> None:
    from plyfile import PlyData, PlyElement

    rest = values["shN"].transpose(1, 2).flatten(1)
    columns = {
        **_named(["x", "y", "z"], values["means"]),
        **_named(["nx", "ny", "nz"], torch.zeros_like(values["means"])),
        **_named([f"f_dc_{i}" for i in range(3)], values["sh0"][:, 0]),
        **_named([f"f_rest_{i}" for i in range(rest.shape[1])], rest),
        "opacity": values["opacities"],
        **_named([f"scale_{i}" for i in range(3)], values["scales"]),
        **_named([f"rot_{i}" for i in range(4)], values["quats"]),
    }
    rows = np.empty(len(values["means"]), dtype=[(name, "f4") for name in columns])
    for name, column in columns.items():
        rows[name] = column.numpy()
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))


def _named(names: list[str], values: Tensor) -> dict[str, Tensor]:
    return {name: values[:, i] for i, name in enumerate(names)}


# --- checkpoints of others --------------------------------------------------------------------------------------------


def read_gsplat(path: Path) -> dict[str, Tensor]:
    """Read the splats of gsplat's ``{"step", "splats"}``."""
    splats = _part(path, "splats")
    found = sorted(splats) if isinstance(splats, dict) else None
    if not isinstance(splats, dict) or not set(NAMES) <= splats.keys():
        raise InputError(
            f"{path} is not a checkpoint of gsplat's simple_trainer with spherical harmonics: "
            f"'splats' holds {found}, expected {list(NAMES)} (app_opt runs of gsplat have no such colours)"
        )
    return {name: splats[name].float() for name in NAMES}


def read_splatfacto(path: Path) -> dict[str, Tensor]:
    """Read the splats of nerfstudio's checkpoint of a splatfacto (or harmonize) run."""
    pipeline = _part(path, "pipeline")
    prefix = "_model.gauss_params."
    if not isinstance(pipeline, dict) or not all(prefix + name in pipeline for name in SPLATFACTO.values()):
        raise InputError(f"{path} is not a checkpoint of splatfacto: it has no {prefix}*")
    return from_splatfacto({name: pipeline[prefix + name].float() for name in SPLATFACTO.values()})


def _part(path: Path, name: str) -> Any:
    """Read one entry of a torch checkpoint; None where it has no such entry."""
    state = read_torch(path)
    return state.get(name) if isinstance(state, dict) else None
