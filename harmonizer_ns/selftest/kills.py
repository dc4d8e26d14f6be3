# SPDX-License-Identifier: Apache-2.0
"""Writers are killed while they write, and the disk is full: what was there before stays whole."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from gsplat_trainer import checkpoint as gsplat
from harmonizer_ns.distill.store import PseudoViewStore, encode
from harmonizer_ns.distill.view_files import views_beside, views_folder
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import read_json, read_torch, write_json, written_whole
from harmonizer_ns.images import load_image, save_image
from harmonizer_ns.selftest.fuzz import FORK
from harmonizer_ns.splats.files import read_ply, write_splats
from harmonizer_ns.splats.model import seed_splats
from harmonizer_ns.training.checkpoints import RunState, list_runs, load_run, save_run
from harmonizer_ns.types import PseudoView, as_frames

_LONGEST = 0.15
"""Seconds after its first version within which a writer is killed."""
_FULL = 1 << 16
"""Bytes after which a disk is full."""


@dataclass(frozen=True)
class Writer:
    """A writer puts numbered versions into a folder.

    Args:
        write: writes a version; all of its numbers are the version's.
        read: gives the numbers in each file, beginning with the newest; those of a file are of one version.
        module: takes long to be imported, and is so before processes fork.
    """

    write: Callable[[Path, int], None]
    read: Callable[[Path], list[list[Tensor]]]
    module: str = __name__


def check_writers(kills: int, seed: int, say: Callable[[str], None]) -> int:
    """Kill every writer so many times, fill the disk once, and print what was lost; gives the number of losses."""
    say(f"\n{'writer':<28}{'kills':>11}{'full disks':>11}{'losses':>11}")
    lost = 0
    for number, (name, writer) in enumerate(WRITERS.items()):
        import_module(writer.module)
        with TemporaryDirectory() as root:
            problems = survived(writer, Path(root, "kills"), kills, seed + number)
            problems += full_disk(writer, Path(root, "full"))
        lost += len(problems)
        say("\n".join([f"{name:<28}{kills:>11}{1:>11}{len(problems):>11}", *(f"  {text}" for text in problems)]))
    return lost


def survived(writer: Writer, folder: Path, times: int, seed: int) -> list[str]:
    """Kill a writer at random moments and go on after each; say what was lost."""
    moments, problems, version = random.Random(seed), [], 0
    for number in range(1, times + 1):
        begun, begins = FORK.Pipe(duplex=False)
        child = FORK.Process(target=_write_on, args=(writer, folder, version + 1, begins))
        child.start()
        begins.close()
        try:
            begun.recv()
            time.sleep(moments.uniform(0, _LONGEST))
            child.kill()
            child.join()
            newest, *others = [torch.cat([values.flatten() for values in file]) for file in writer.read(folder)]
        except Exception as error:  # whatever it is, the writer had failed before, or its newest version is unreadable
            problems.append(f"kill {number}: {type(error).__name__}: {error}")
            continue
        if newest[0] <= version or not all((file == file[0]).all() for file in (newest, *others)):
            problems.append(f"kill {number}: version {newest[0]} after {version}, or a file of several versions")
        version = int(newest[0])
    return problems


def _write_on(writer: Writer, folder: Path, version: int, begins: Connection) -> None:
    writer.write(folder, version)
    begins.send(version)
    while True:
        version += 1
        writer.write(folder, version)


def full_disk(writer: Writer, folder: Path) -> list[str]:
    """Let a writer meet the end of the disk; say what is wrong with its error or with what was there before."""
    with ProcessPoolExecutor(1, FORK) as child:
        child.submit(writer.write, folder, 1).result()
        before, told = _contents(folder), "full disk: nothing was said"
        child.submit(resource.setrlimit, resource.RLIMIT_FSIZE, (_FULL, _FULL)).result()
        try:
            child.submit(writer.write, folder, 2).result()
        except Exception as error:
            is_told = isinstance(error, InputError) and str(error).startswith("cannot write ")
            told = "" if is_told else f"full disk: {type(error).__name__}: {error}"
    return [problem for problem in (told, _contents(folder) != before and "full disk: files have changed") if problem]


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the writers ------------------------------------------------------------------------------------------------------


def _values(version: int) -> dict[str, Tensor]:
    """A state of some size that is the version all over."""
    return {name: torch.full((400, 400), float(version)) for name in ("means", "scales")}


def _views(version: int) -> PseudoViewStore:
    """Two views; each version shares one with the version before."""
    store, camera = PseudoViewStore(2), as_frames(torch.zeros(3, 48, 64)).cameras
    for number in (version, version + 1):
        image = torch.full((3, 48, 64), number % 256 / 255)
        store.add([encode(PseudoView(image, image, image[:1], camera, number, 0))])
    return store


def _check_views(state: dict[str, Any], folder: Path, version: int) -> None:
    """Read the views that a version names."""
    store = PseudoViewStore(2)
    store.load_state_dict(state["store"], folder)
    if [view.digest for view in store.stored] != [view.digest for view in _views(version).stored]:
        raise ValueError(f"version {version} has the views of another one")


def _write_gsplat(folder: Path, version: int) -> None:
    path, store = gsplat.full_path(folder, version, 0), _views(version)
    state = {"step": version, "splats": _values(version), "repairs": {"store": store.state_dict()}}
    with views_beside(path, store, gsplat.FULL, gsplat.views_named):
        gsplat.save_full(path, state)
    gsplat.save_gsplat(gsplat.gsplat_path(folder, version, 0), version, _values(version))


def _read_gsplat(folder: Path) -> list[list[Tensor]]:
    newest = gsplat.load_full(gsplat.newest_full(folder, 0))
    _check_views(newest["repairs"], views_folder(folder), newest["step"])
    states = [newest, *map(read_torch, folder.glob("ckpt_*.pt"))]
    return [[torch.tensor([float(state["step"])]), *state["splats"].values()] for state in states]


def _write_nerfstudio(folder: Path, version: int) -> None:
    from harmonizer_ns.plugin.trainer import HarmonizeTrainer

    groups: dict[str, Any] = {name: {} for name in ("optimizers", "schedulers", "scalers")}
    trainer: Any = object.__new__(HarmonizeTrainer)  # it saves without what it trains
    trainer.base_dir, trainer.checkpoint_dir = folder, folder / "nerfstudio_models"
    trainer.config = SimpleNamespace(save_only_latest_checkpoint=True, load_dir=None, load_checkpoint=None)
    store = _views(version)
    trainer.pipeline = SimpleNamespace(repairs=SimpleNamespace(store=store))
    extra = {"_extra_state": {"distiller": {"store": store.state_dict()}}}
    trainer._state = lambda step: {"step": step, "pipeline": _values(step) | extra, **groups}
    trainer.save_checkpoint(version)


def _read_nerfstudio(folder: Path) -> list[list[Tensor]]:
    from harmonizer_ns.plugin.trainer import newest_checkpoint, read_checkpoint

    path = newest_checkpoint(folder / "nerfstudio_models")
    state = read_checkpoint(path)
    _check_views(state["pipeline"].pop("_extra_state")["distiller"], views_folder(path.parent), state["step"])
    return [[torch.tensor([float(state["step"])]), *state["pipeline"].values()]]


def _write_training(folder: Path, version: int) -> None:
    save_run(folder, RunState(version, {"weights": _values(version)}, {}), keep=2)


def _read_training(folder: Path) -> list[list[Tensor]]:
    run = load_run(list_runs(folder)[-1])
    return [[torch.tensor([float(run.step)]), *run.tensors["weights"].values()]]


def _write_files(folder: Path, version: int) -> None:
    splats = seed_splats(torch.rand(5000, 3), torch.rand(5000, 3), degree=1)
    write_splats(folder / "splats.ply", {name: torch.full_like(value, version) for name, value in splats.items()})
    with written_whole(folder / "image.png") as partial:
        save_image(partial, torch.rand(3, 256, 256))
    write_json(folder / "pairs.json", {"version": [float(version)] * 50_000})


def _read_files(folder: Path) -> list[list[Tensor]]:
    load_image(folder / "image.png")
    splats, pairs = read_ply(folder / "splats.ply"), read_json(folder / "pairs.json")
    return [list(splats.values()), [torch.tensor(pairs["version"])]]


WRITERS: dict[str, Writer] = {
    "gsplat_trainer checkpoints": Writer(_write_gsplat, _read_gsplat),
    "ns-train checkpoints": Writer(_write_nerfstudio, _read_nerfstudio, "harmonizer_ns.plugin.trainer"),
    "training checkpoints": Writer(_write_training, _read_training),
    "PLY, image, pairs": Writer(_write_files, _read_files),
}
