# SPDX-License-Identifier: Apache-2.0
"""Writers are killed while they write, and the disk is full: what was there before stays whole."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.selftest.fuzz import in_child

_LONGEST = 0.15
"""Seconds after its first file within which a writer is killed."""
_FULL = 1 << 16
"""Bytes after which a disk is full."""


@dataclass(frozen=True)
class Writer:
    """A writer puts numbered versions into a folder.

    Args:
        write: writes a version; all of its numbers are the version's.
        read: gives the version of the newest one, and all of its numbers.
        modules: are imported once, before processes fork.
    """

    write: Callable[[Path, int], None]
    read: Callable[[Path], tuple[int, list[Tensor]]]
    modules: tuple[str, ...] = ()


def survived(writer: Writer, folder: Path, times: int, seed: int) -> list[str]:
    """Kill a writer at random moments and go on after each; say what was lost."""
    for module in writer.modules:
        import_module(module)
    moments, problems, version = random.Random(seed), [], 0
    for number in range(times):
        pid, pipe = in_child(lambda pipe, begin=version + 1: _write_on(writer, folder, begin, pipe))
        try:
            pipe.recv()
        except EOFError:
            return [*problems, f"kill {number + 1}: the writer had failed before"]
        time.sleep(moments.uniform(0, _LONGEST))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        try:
            found, values = writer.read(folder)
        except Exception as error:  # whatever it is, the newest version cannot be read
            problems.append(f"kill {number + 1}: {error}")
            continue
        if found <= version or not all((value == found).all() for value in values):
            problems.append(f"kill {number + 1}: version {found} after {version}, or of several versions")
        version = found
    return problems


def _write_on(writer: Writer, folder: Path, version: int, pipe: Connection) -> None:
    writer.write(folder, version)
    pipe.send(version)
    while True:
        version += 1
        writer.write(folder, version)


def full_disk(writer: Writer, folder: Path) -> list[str]:
    """Let a writer meet the end of the disk; say what is wrong with its error or with what was there before."""
    pid, pipe = in_child(lambda pipe: writer.write(folder, 1))
    os.waitpid(pid, 0)
    before = _contents(folder)
    pid, pipe = in_child(lambda pipe: pipe.send(_told_at_the_end(writer, folder)))
    told = pipe.recv()
    os.waitpid(pid, 0)
    problems = [] if told.startswith("cannot write ") else [f"full disk: {told}"]
    return problems if _contents(folder) == before else [*problems, "full disk: files have changed"]


def _told_at_the_end(writer: Writer, folder: Path) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FULL, _FULL))
    try:
        writer.write(folder, 2)
    except InputError as error:
        return str(error)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was said"


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the writers ------------------------------------------------------------------------------------------------------


def _values(version: int) -> dict[str, Tensor]:
    """A state of some size that is the version all over."""
    return {name: torch.full((400, 400), float(version)) for name in ("means", "scales")}


def _write_gsplat(folder: Path, version: int) -> None:
    from gsplat_trainer import checkpoint

    checkpoint.save_full(checkpoint.full_path(folder, version, 0), {"step": version, "splats": _values(version)})
    checkpoint.save_gsplat(checkpoint.gsplat_path(folder, version, 0), version, _values(version))


def _read_gsplat(folder: Path) -> tuple[int, list[Tensor]]:
    from gsplat_trainer.checkpoint import load_full, newest_full
    from harmonizer_ns.files import read_torch

    state = load_full(newest_full(folder, 0))
    others = [read_torch(path) for path in folder.glob("ckpt_*.pt")]
    torn = [other for other in others if not all((v == other["step"]).all() for v in other["splats"].values())]
    return state["step"], [*state["splats"].values(), *(value for other in torn for value in other["splats"].values())]


def _write_nerfstudio(folder: Path, version: int) -> None:
    from harmonizer_ns.plugin.trainer import HarmonizeTrainer

    groups: dict[str, Any] = {name: {} for name in ("optimizers", "schedulers", "scalers")}
    trainer: Any = object.__new__(HarmonizeTrainer)  # it saves without what it trains
    trainer.base_dir, trainer.checkpoint_dir = folder, folder / "nerfstudio_models"
    trainer.config = SimpleNamespace(save_only_latest_checkpoint=True, load_dir=None, load_checkpoint=None)
    trainer._state = lambda step: {"step": step, "pipeline": _values(step), **groups}
    trainer.save_checkpoint(version)


def _read_nerfstudio(folder: Path) -> tuple[int, list[Tensor]]:
    from harmonizer_ns.plugin.trainer import newest_checkpoint, read_checkpoint

    state = read_checkpoint(newest_checkpoint(folder / "nerfstudio_models"))
    return state["step"], list(state["pipeline"].values())


def _write_training(folder: Path, version: int) -> None:
    from harmonizer_ns.training.checkpoints import RunState, save_run

    save_run(folder, RunState(version, {"weights": _values(version)}, {}), keep=2)


def _read_training(folder: Path) -> tuple[int, list[Tensor]]:
    from harmonizer_ns.training.checkpoints import list_runs, load_run

    run = load_run(list_runs(folder)[-1])
    return run.step, list(run.tensors["weights"].values())


def _write_files(folder: Path, version: int) -> None:
    from harmonizer_ns.files import write_json, written_whole
    from harmonizer_ns.images import save_image
    from harmonizer_ns.selftest.inputs import some_splats
    from harmonizer_ns.splats.files import write_splats

    splats = {name: torch.full_like(value, float(version)) for name, value in some_splats(5000).items()}
    write_splats(folder / "splats.ply", splats)
    with written_whole(folder / "image.png") as partial:
        save_image(partial, torch.rand(3, 256, 256))
    write_json(folder / "pairs.json", {"version": [version] * 50_000})


def _read_files(folder: Path) -> tuple[int, list[Tensor]]:
    from harmonizer_ns.files import read_json
    from harmonizer_ns.images import load_image
    from harmonizer_ns.splats.files import read_ply

    load_image(folder / "image.png")
    splats, content = read_ply(folder / "splats.ply"), read_json(folder / "pairs.json")["version"]
    if len(set(content)) > 1 or content[0] not in (splats["sh0"].max().item(), splats["sh0"].max().item() - 1):
        raise InputError("files of one version have parts of several")
    return int(splats["sh0"].max()), list(splats.values())


WRITERS: dict[str, Writer] = {
    "gsplat_trainer checkpoints": Writer(_write_gsplat, _read_gsplat),
    "ns-train checkpoints": Writer(_write_nerfstudio, _read_nerfstudio, ("harmonizer_ns.plugin.trainer",)),
    "training checkpoints": Writer(_write_training, _read_training),
    "PLY, image, pairs": Writer(_write_files, _read_files),
}
