# SPDX-License-Identifier: Apache-2.0
"""Splats are read from the PLY layout of Kerbl et al., compressed PLY, .spz, gsplat's .pt and splatfacto's .ckpt.

The first three are written, too.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import ply_columns, read_torch, written_whole
from harmonizer_ns.splats.compressed import read_compressed_ply, read_spz, write_compressed_ply, write_spz
from harmonizer_ns.splats.model import NAMES, SPLATFACTO, base_harmonics, check_splats, from_splatfacto

SplatFormat = Literal["ply", "ply_compressed", "spz"]
SUFFIXES: dict[SplatFormat, str] = {"ply": ".ply", "ply_compressed": ".compressed.ply", "spz": ".spz"}
_RANK = re.compile(r"(ckpt_\d+_rank)(\d+)\.pt")
_SPLATFACTO_PREFIXES = ("_model.gauss_params.", "_model.module.gauss_params.", "_model.", "_model.module.")
"""nerfstudio 1.0.0 to 1.0.2 had no group for them; runs on several GPUs add a ``module``."""
_OPAQUE = 16.0
"""The logit of an opacity within 2e-7 of 1; splats can still learn to be less."""
_FLAT = -30.0
"""The log of a width that nobody sees in a scene of any unit."""
_FAR = 1e15
"""Squares of larger numbers, and their products, leave the range of single precision."""

logger = logging.getLogger(__name__)


def read_splats(*paths: Path, origin: Float[Tensor, " 3"] | None = None) -> dict[str, Tensor]:
    """Read splats to the CPU from a file, or from several that hold one scene together; suffixes say their kinds.

    Each rank of a gsplat run writes a part of the scene: one of these files brings the others with it.

    Args:
        paths: of the files.
        origin: what is taken from the positions of splats that lie nearer to it than to zero: those of a georeferenced
            capture, which a PLY holds in float64.

    Raises:
        InputError: when a file is missing, cannot be read, or holds something else; the message says what.
    """
    files = _with_all_ranks(paths)
    if len(files) > len(paths):
        logger.warning("%s: one scene in %d files, all of them are read", paths[0], len(files))
    parts = [_read(path, origin) for path in files]
    if len(parts) == 1:
        return parts[0]
    most = max(part["shN"].shape[1] for part in parts)
    for part in parts:
        part["shN"] = torch.nn.functional.pad(part["shN"], (0, 0, 0, most - part["shN"].shape[1]))
    return {name: torch.cat([part[name] for part in parts]) for name in NAMES}


def _with_all_ranks(paths: Sequence[Path]) -> list[Path]:
    """The files and, after those of gsplat's ranks, the other ranks of the same step; each file once."""
    found: dict[Path, Path] = {}
    for path in paths:
        found[path.resolve()] = path
        if not (name := _RANK.fullmatch(path.name)):
            continue
        beside = path.parent.glob(f"{name[1]}*.pt")
        ranks = {int(rank[2]): file for file in beside if (rank := _RANK.fullmatch(file.name))}
        if missing := set(range(max(ranks, default=0))) - ranks.keys():
            raise InputError(f"{path} is a part of a scene: beside it, {name[1]}{min(missing)}.pt is missing")
        found |= {ranks[rank].resolve(): ranks[rank] for rank in sorted(ranks)}
    return list(found.values())


def _read(path: Path, origin: Float[Tensor, " 3"] | None) -> dict[str, Tensor]:
    readers = {".ply": read_ply, ".spz": read_spz, ".pt": read_gsplat, ".ckpt": read_splatfacto}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: splats are read from .ply, .spz, .pt (gsplat) and .ckpt (splatfacto)")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    splats = readers[path.suffix.lower()](path)
    check_splats(splats, path)
    return _drawable(splats | {"means": _near(splats["means"], origin)}, path)


def _near(means: Float[Tensor, "n 3"], origin: Float[Tensor, " 3"] | None) -> Float[Tensor, "n 3"]:
    """Take the origin from positions that lie nearer to it than to zero, in float64; then all is float32."""
    if origin is None or not len(means):
        return means.float()
    middle = means.double().nanmedian(dim=0).values
    return (means.double() - origin if (middle - origin).norm() < middle.norm() else means).float()


def _drawable(splats: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Keep the Gaussians that can be drawn, and say how many cannot.

    Infinite logits mean opaque or clear, a log scale of minus infinity means flat: both become finite.
    """
    opacities = splats["opacities"].nan_to_num(torch.nan, _OPAQUE, -_OPAQUE)
    values = {**splats, "opacities": opacities, "scales": splats["scales"].clamp(min=_FLAT)}
    most = dict.fromkeys(values, _FAR) | {"scales": math.log(_FAR)}
    wrong = {name: ~(value[..., None].abs() <= most[name]).flatten(1).all(1) for name, value in values.items()}
    wrong["quats"] |= values["quats"].norm(dim=1) == 0
    left_out = torch.stack(list(wrong.values())).any(0)
    if left_out.all():
        raise InputError(f"{path} holds no Gaussian with finite values")
    if left_out.any():
        reasons = ", ".join(f"{name} of {int(rows.sum())}" for name, rows in wrong.items() if rows.any())
        told = "%s: %d of %d Gaussians are left out: %s are not finite, too large to be drawn, or zero quaternions"
        logger.warning(told, path, int(left_out.sum()), len(left_out), reasons)
    return {name: value[~left_out].contiguous() for name, value in values.items()}


def write_splats(
    path: Path, splats: Mapping[str, Tensor], kind: SplatFormat = "ply", origin: Float[Tensor, " 3"] | None = None
) -> None:
    """Write a file that viewers read; it appears when it is whole.

    Args:
        path: of the file.
        splats: to write.
        kind: of the file.
        origin: is added to the positions, which a PLY then holds in float64; small formats cannot, and count from it.

    Raises:
        InputError: when it cannot be written, or needs a codec that is not installed.
    """
    values = {name: splats[name].detach().float().cpu() for name in NAMES}
    if kind != "ply":
        values = _drawable(values, path)  # one broken Gaussian would spoil the range of its whole chunk
    if origin is not None and origin.any() and kind == "ply":
        values["means"] = values["means"].double() + origin
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
        "means": _stack(columns, ("x", "y", "z"), np.float64),
        "scales": _stack(columns, [f"scale_{i}" for i in range(3)]),
        "quats": _stack(columns, [f"rot_{i}" for i in range(4)]),
        "opacities": _stack(columns, ["opacity"])[:, 0],
        "sh0": _base_color(columns, path),
        "shN": _rest(columns, path),
    }


def _stack(columns: dict[str, np.ndarray], names: Any, kind: Any = np.float32) -> Tensor:
    return torch.from_numpy(np.stack([columns[name].astype(kind) for name in names], axis=1))


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
    rows = np.empty(len(values["means"]), dtype=[(name, column.numpy().dtype) for name, column in columns.items()])
    for name, column in columns.items():
        rows[name] = column.numpy()
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))


def _named(names: list[str], values: Tensor) -> dict[str, Tensor]:
    return {name: values[:, i] for i, name in enumerate(names)}


# --- checkpoints of others --------------------------------------------------------------------------------------------


def read_gsplat(path: Path) -> dict[str, Tensor]:
    """Read the splats of gsplat's ``{"step", "splats"}``."""
    splats = _part(path, "splats")
    found = sorted(map(str, splats)) if isinstance(splats, dict) else None
    if not isinstance(splats, dict) or not set(NAMES) <= splats.keys():
        raise InputError(
            f"{path} is not a checkpoint of gsplat's simple_trainer with spherical harmonics: "
            f"'splats' holds {found}, expected {list(NAMES)} (app_opt runs of gsplat have no such colours)"
        )
    return _rows({name: splats[name] for name in NAMES}, path)


def read_splatfacto(path: Path) -> dict[str, Tensor]:
    """Read the splats of nerfstudio's checkpoint of a splatfacto (or harmonize) run."""
    pipeline = _part(path, "pipeline")
    for prefix in _SPLATFACTO_PREFIXES if isinstance(pipeline, dict) else ():
        if all(prefix + name in pipeline for name in SPLATFACTO.values()):
            return from_splatfacto(_rows({name: pipeline[prefix + name] for name in SPLATFACTO.values()}, path))
    raise InputError(f"{path} is not a checkpoint of splatfacto: it has no {_SPLATFACTO_PREFIXES[0]}*")


def _rows(values: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Single-precision tensors with a row for each Gaussian; what else a damaged checkpoint may hold is refused."""
    for name, value in values.items():
        plain = isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided
        if not plain or not value.ndim or value.device.type != "cpu" or value.nbytes > path.stat().st_size:
            kind = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{path}: {name} should be a tensor with a row for each Gaussian, it is {kind}")
    return {name: value.detach().float() for name, value in values.items()}


def _part(path: Path, name: str) -> Any:
    """Read one entry of a torch checkpoint; None where it has no such entry."""
    state = read_torch(path)
    return state.get(name) if isinstance(state, dict) else None
