# SPDX-License-Identifier: Apache-2.0
"""A run keeps checkpoints: ``OUTPUT/checkpoints/step-00001000/`` with safetensors files and ``state.json``.

A folder appears under its name in one step, when all of it is on the disk; an interrupted or failed save leaves the
earlier checkpoints as they were. ``state.json`` holds ``format``, ``version``, ``step``, the sha256 of every file, and
whatever JSON state the loop gives.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import by_number, file_digest, read_json, written_whole
from harmonizer_ns.finite import check_finite

FORMAT = "harmonizer-training"
VERSION = 1
STATE = "state.json"

Tensors = dict[str, dict[str, Tensor]]
"""Name of a file, without its suffix -> its tensors."""


@dataclass(frozen=True)
class RunState:
    """Is what a checkpoint holds.

    Args:
        step: optimizer steps done.
        tensors: groups of tensors (weights, optimizer, average), on the CPU when loaded.
        state: JSON values.
    """

    step: int
    tensors: Tensors
    state: dict[str, Any]


def save_run(folder: Path, content: RunState, keep: int) -> None:
    """Write the checkpoint of a step below ``folder``, then remove all but the newest ``keep``.

    Raises:
        InputError: when it cannot be written or is not finite; the checkpoints that were there before stay.
    """
    before = list_runs(folder)
    resume = f"{before[-1].name} is intact, continue from it with --resume" if before else "Nothing was saved before"
    check_finite(content.tensors, f"step {content.step}", resume)
    with written_whole(folder / f"step-{content.step:08d}", f"{resume} when there is space") as partial:
        partial.mkdir()
        digests = {}
        for name, tensors in content.tensors.items():
            path = partial / f"{name}.safetensors"
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)
            digests[path.name] = file_digest(path)
        state = {"format": FORMAT, "version": VERSION, "step": content.step, "sha256": digests, **content.state}
        (partial / STATE).write_text(json.dumps(state, indent=2) + "\n")
    for old in list_runs(folder)[:-keep]:
        shutil.rmtree(old)


def load_run(folder: Path) -> RunState:
    """Read and verify one checkpoint.

    Raises:
        InputError: when it is not a whole checkpoint of a training run; the message names the file.
    """
    path = folder / STATE
    state = read_json(path)
    if state.pop("format", None) != FORMAT:
        raise InputError(f"{path} is not of format {FORMAT!r}: an enhancer folder is given with --model, not resumed")
    if state.pop("version", None) != VERSION or not isinstance(state.get("sha256"), dict) or not _is_step(state):
        raise InputError(f"{path} was not written by this version of the project, which reads version {VERSION}")
    tensors: Tensors = {}
    for name, digest in state.pop("sha256").items():
        path = folder / Path(name).name
        if not path.is_file() or file_digest(path) != digest:
            raise InputError(f"{path} is missing or damaged; resume from another checkpoint beside it")
        tensors[path.stem] = load_file(path)
    return RunState(state.pop("step"), tensors, state)


def _is_step(state: dict[str, Any]) -> bool:
    step = state.get("step")
    return isinstance(step, int) and not isinstance(step, bool) and step >= 0


def list_runs(folder: Path) -> list[Path]:
    """List the whole checkpoints below a folder, oldest first."""
    return by_number(path for path in folder.glob("step-*") if (path / STATE).is_file())


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
