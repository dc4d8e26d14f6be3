# SPDX-License-Identifier: Apache-2.0
"""A full checkpoint is one safetensors file whose header holds the rest as JSON. Reading it never runs code from it.

The file appears under its name when it is whole, so the last good one survives a full disk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harmonizer_ns.distill.view_files import named_views
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import by_number, written_whole
from harmonizer_ns.finite import check_finite

FORMAT = "harmonizer-gsplat-trainer-1"
FULL = "full_*.safetensors*"
"""Full checkpoints of all ranks and steps, and copies of them."""
_TENSOR = "$tensor"


def full_path(folder: Path, step: int, rank: int) -> Path:
    """Name the full checkpoint after a step."""
    return folder / f"full_{step:06d}_rank{rank}.safetensors"


def gsplat_path(folder: Path, step: int, rank: int) -> Path:
    """Name the checkpoint that gsplat's viewers read, as gsplat's trainer gives it."""
    return folder / f"ckpt_{step}_rank{rank}.pt"


def save_full(path: Path, state: dict[str, Any]) -> None:
    """Write dictionaries and lists of tensors, numbers and strings.

    Raises:
        InputError: when the file cannot be written, or the tensors are not finite; earlier ones are intact.
    """
    check_finite(state, path.name, f"earlier checkpoints there are intact, go on with --resume {path.parent}")
    tensors: dict[str, Tensor] = {}

    def lift(value: Tensor) -> dict[str, str]:
        """Leave a tensor's name in its place; it is copied, for several may share memory."""
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}

    layout = json.dumps(state, default=lift)
    with written_whole(path, _advice(path)) as partial:
        save_file(tensors, partial, metadata={"format": FORMAT, "layout": layout})


def save_gsplat(path: Path, step: int, splats: Any) -> None:
    """Write ``{"step", "splats"}``.

    Raises:
        InputError: when the file cannot be written; earlier ones are intact.
    """
    state = {"step": step, "splats": {name: value.detach().cpu() for name, value in splats.items()}}
    with written_whole(path, _advice(path)) as partial:
        torch.save(state, partial)


def _advice(path: Path) -> str:
    return f"Earlier checkpoints there are intact; make room and go on with --resume {path.parent}"


def load_full(path: Path) -> dict[str, Any]:
    """Read a full checkpoint to the CPU.

    Raises:
        InputError: when it is missing, broken, or of another kind.
    """
    with _opened(path) as (file, layout):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    return json.loads(layout, object_hook=lambda item: tensors[item[_TENSOR]] if item.keys() == {_TENSOR} else item)


def views_named(path: Path) -> set[str]:
    """Tell which pseudo-views a full checkpoint names; see `named_views`.

    Raises:
        InputError: as `load_full`.
    """
    with _opened(path) as (_, layout):
        return named_views(json.loads(layout)["repairs"])


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, str]]:
    """Open a full checkpoint, and give its layout too."""
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            if meta.get("format") != FORMAT:
                found = meta.get("format")
                raise InputError(f"{path} is not a full checkpoint of this version: format {found}, not {FORMAT}")
            yield file, meta["layout"]
    except (OSError, SafetensorError) as error:
        raise InputError(f"checkpoint {path} cannot be read (incomplete, or not a full checkpoint): {error}") from error


def newest_full(place: Path, rank: int) -> Path:
    """Find the checkpoint itself, or the newest one of this rank in a folder or in its ``ckpts``.

    Raises:
        InputError: when there is none.
    """
    if place.is_file():
        return place.with_name(re.sub(r"_rank\d+\.", f"_rank{rank}.", place.name))
    found = [*place.glob(f"full_*_rank{rank}.safetensors"), *place.glob(f"ckpts/full_*_rank{rank}.safetensors")]
    if not found:
        raise InputError(f"no full checkpoint (full_*_rank{rank}.safetensors) in {place}")
    return by_number(found)[-1]
