# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training run: ``OUTPUT/checkpoints/step-00001000/`` with safetensors files and ``state.json``.

A folder appears under its name in one step, when all of it is on the disk; an interrupted or failed save leaves the
earlier checkpoints as they were. ``state.json`` holds ``format``, ``version``, ``step``, the sha256 of every file, and
whatever JSON state the loop gives.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from harmonizer_ns.errors import InputError

FORMAT = "harmonizer-training"
VERSION = 1
STATE = "state.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Tensors = dict[str, dict[str, Tensor]]
"""Name of a file, without its suffix -> its tensors."""


@dataclass(frozen=True)
class RunState:
    """What a checkpoint holds.

    Args:
        step: optimizer steps done.
        tensors: groups of tensors (weights, optimizer, average), on the CPU when loaded.
        state: JSON values.
    """

    step: int
    tensors: Tensors
    state: dict[str, Any]


def save_run(folder: Path, content: RunState, keep: int) -> Path:
    """Write the checkpoint of a step below ``folder``, then remove all but the newest ``keep``.

    When that fails, the checkpoints that were there before stay.
    """
    final = folder / f"step-{content.step:08d}"
    partial = folder / f".{final.name}.partial"
    for stale in folder.glob(".step-*.partial"):  # of a process that was killed
        shutil.rmtree(stale)
    try:
        partial.mkdir(parents=True)
        _write(partial, content)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in list_runs(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def _write(folder: Path, content: RunState) -> None:
    digests = {}
    for name, tensors in content.tensors.items():
        path = folder / f"{name}.safetensors"
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)
        digests[path.name] = _digest(path)
    state = {"format": FORMAT, "version": VERSION, "step": content.step, "sha256": digests, **content.state}
    (folder / STATE).write_text(json.dumps(state, indent=2) + "\n")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def load_run(folder: Path) -> RunState:
    """Read and verify one checkpoint.

    Raises:
        InputError: when it is not a whole checkpoint of a training run; the message names the file.
    """
    state = _read_state(folder)
    tensors: Tensors = {}
    for name, digest in state.pop("sha256").items():
        path = folder / Path(name).name
        if not path.is_file() or _digest(path) != digest:
            raise InputError(f"{path} is missing or damaged; resume from another checkpoint beside it")
        tensors[path.stem] = load_file(path)
    return RunState(state.pop("step"), tensors, state)


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    try:
        state = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} is no checkpoint of a training run: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path} is not of format {FORMAT!r}: an enhancer folder is given with --model, not resumed")
    if state.pop("version", None) != VERSION or not isinstance(state.get("sha256"), dict) or "step" not in state:
        raise InputError(f"{path} was not written by this version of the project, which reads version {VERSION}")
    del state["format"]
    return state


def list_runs(folder: Path) -> list[Path]:
    """Whole checkpoints below a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / STATE).is_file())


def require_space(folder: Path, needed: int) -> None:
    """Check for free space before work begins that would be lost without it.

    Raises:
        InputError: when fewer than ``needed`` bytes are free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder} has {free / 1e9:.2f} GB free, checkpoints and export need {needed / 1e9:.2f} GB; free some, "
            "lower --saving.keep, or give another --output"
        )


def size(tensors: Tensors) -> int:
    """Bytes of all tensors."""
    return sum(value.nbytes for group in tensors.values() for value in group.values())


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Turn a write that fails for lack of space into advice; ``folder`` holds the run's checkpoints.

    Raises:
        InputError: within, when the disk, a quota or a file-size limit is reached.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _is_full(error):
            raise
        kept = list_runs(folder)
        resume = f"{kept[-1].name} is intact, continue from it with --resume" if kept else "nothing was saved before"
        raise InputError(f"no space left in {folder.parent} ({error}); {resume} when there is space") from error


def _is_full(error: Exception) -> bool:
    """Safetensors tells of a failed write only in words."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(f"os error {code}" in str(error) for code in _FULL)
