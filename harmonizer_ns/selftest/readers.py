# SPDX-License-Identifier: Apache-2.0
"""One visible table of all that reads files of users: how a good one is made, which file is damaged, what is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsplat_trainer.checkpoint import load_full, newest_full
from harmonizer_ns.captures.capture import Capture, load_capture
from harmonizer_ns.captures.frame import Similarity, read_dataparser_transforms
from harmonizer_ns.distill.targets import load_camera_path
from harmonizer_ns.errors import damage_of
from harmonizer_ns.files import file_digest, read_json, write_json
from harmonizer_ns.footage.files import open_footage
from harmonizer_ns.pairs import read_pairs
from harmonizer_ns.selftest import inputs, nonsense
from harmonizer_ns.selftest.damage import BYTES, FULL_CHECKPOINT, GZIP, JSON, SAFETENSORS, TORCH, YAML, Form
from harmonizer_ns.splats.files import read_splats
from harmonizer_ns.training.checkpoints import load_run
from harmonizer_ns.types import as_frames


@dataclass(frozen=True)
class Reader:
    """A reader of one sort of file.

    Args:
        make: fills a folder with a good input.
        file: the one in it that is damaged.
        read: reads it from that folder, to the last value; bad input is an `InputError`.
        nonsense: yields what should not have passed.
        forms: how the file is taken apart.
        seal: mends what would give the damage away at once, such as a hash.
        modules: are imported once, before processes fork.
    """

    make: Callable[[Path], None]
    file: str
    read: Callable[[Path], Any]
    nonsense: Callable[[Any], Iterator[str]]
    forms: tuple[Form, ...] = (BYTES,)
    seal: Callable[[Path], None] = lambda folder: None
    modules: tuple[str, ...] = ()


def _capture(folder: Path, part: str = "", masked: bool = False, listed: bool = False) -> Capture:
    capture = load_capture(
        folder / part,
        masks=folder / "masks" if masked else None,
        train_list=folder / "train.txt" if listed else None,
        test_list=folder / "test.txt" if listed else None,
        test_every=2,
        with_tracks=bool(part),
    )
    for i in range(len(capture)):
        capture.photo(i)
    return capture


def _run_frame(folder: Path) -> Similarity:
    return read_dataparser_transforms(folder / "run" / "dataparser_transforms.json", torch.eye(4))


def _enhanced(folder: Path) -> list[Tensor]:
    from harmonizer_ns.enhancers.specs import load_enhancer

    repaired = load_enhancer(folder).enhance(as_frames(torch.full((3, 32, 32), 0.5)))
    return [repaired.rgb, repaired.confidence]


def _seal_enhancer(folder: Path) -> None:
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "sha256": file_digest(folder / "model.safetensors")})


def _converted(folder: Path) -> dict[str, Tensor]:
    from harmonizer_ns.enhancers.difix.enhancer import DifixEnhancer

    return dict(DifixEnhancer.from_pkl(folder / "model.pkl", folder / "base").network.state_dict())


def _resumed(folder: Path) -> Any:
    trainer, path = _gsplat_run(folder), newest_full(folder, 0)
    with damage_of(path):
        trainer.load_state_dict(load_full(path))
    return trainer


@cache
def _gsplat_run(folder: Path) -> Any:
    """Set up a run of gsplat_trainer on a small capture in the folder."""
    from gsplat_trainer.config import DefaultConfig
    from gsplat_trainer.distributed import World
    from gsplat_trainer.trainer import Trainer

    config = DefaultConfig(result_dir=folder / "result", sh_degree=1, enhancer="none", max_steps=8)
    return Trainer(config, load_capture(folder / "capture"), torch.device("cpu"), World())


def _make_gsplat_run(folder: Path) -> None:
    from gsplat_trainer.checkpoint import save_full

    (folder / "capture").mkdir()
    inputs.make_capture(folder / "capture")
    save_full(folder / "full_000007_rank0.safetensors", {**_gsplat_run(folder).state_dict(), "step": 7})


def _in_resumed(trainer: Any) -> Iterator[str]:
    yield from nonsense.in_step(trainer.step)
    yield from nonsense.in_splats({name: value.detach() for name, value in trainer.splats.items()})


def _config(folder: Path) -> Any:
    from harmonizer_ns.plugin.configs import read_config

    return read_config(folder / "config.yml")


def _recipe(folder: Path) -> Any:
    from harmonizer_ns.synthesis.recipes.recipe import read_recipe

    return read_recipe(folder / "recipe.yaml")


def _film(folder: Path, name: str) -> list[Tensor]:
    return [item.load() for item in open_footage(folder / name).items]


_OF_CAPTURE = partial(Reader, inputs.make_capture, read=_capture, nonsense=nonsense.in_capture)
_OF_LISTS = partial(_OF_CAPTURE, read=partial(_capture, listed=True))
_OF_MASKS = partial(_OF_CAPTURE, read=partial(_capture, masked=True))
_OF_FRAME = partial(Reader, inputs.make_capture, read=_run_frame, nonsense=nonsense.in_similarity, forms=(BYTES, JSON))


def _colmap(part: str, suffix: str) -> Reader:
    form = "binary" if suffix == "bin" else "text"
    read = partial(_capture, part=form)
    return Reader(inputs.make_colmap, f"{form}/sparse/0/{part}.{suffix}", read, nonsense.in_capture)


def _splats(name: str, *forms: Form) -> Reader:
    read = partial(_read_splats, name=name)
    return Reader(inputs.make_splats, name, read, nonsense.in_splats, forms or (BYTES,))


def _read_splats(folder: Path, name: str) -> dict[str, Tensor]:
    return read_splats(folder / name)


READERS: dict[str, Reader] = {
    "transforms.json": _OF_CAPTURE("transforms.json", forms=(BYTES, JSON)),
    "points .ply": _OF_CAPTURE("sparse_pc.ply"),
    "photo .png": _OF_CAPTURE("images/0.png"),
    "photo .jpg": _OF_CAPTURE("images/1.jpg"),
    "photo .tif, 16 bits": _OF_CAPTURE("images/2.tif"),
    "mask": _OF_MASKS("masks/0.png.png"),
    "train list": _OF_LISTS("train.txt"),
    "test list": _OF_LISTS("test.txt"),
    **{
        f"COLMAP {part}.{suffix}": _colmap(part, suffix)
        for suffix in ("bin", "txt")
        for part in ("cameras", "images", "points3D", *(("rigs", "frames") if suffix == "bin" else ()))
    },
    "dataparser_transforms.json": _OF_FRAME("run/dataparser_transforms.json"),
    "world_origin.json": _OF_FRAME("run/world_origin.json"),
    "camera_path.json": Reader(
        inputs.make_capture,
        "camera_path.json",
        lambda folder: load_camera_path(folder / "camera_path.json"),
        nonsense.in_cameras,
        (BYTES, JSON),
    ),
    "splats .ply": _splats("splats.ply"),
    "splats .compressed.ply": _splats("splats.compressed.ply"),
    "splats .spz": _splats("splats.spz", BYTES, GZIP),
    "splats .pt": _splats("splats.pt", BYTES, TORCH),
    "splats .ckpt": _splats("splats.ckpt", BYTES, TORCH),
    "enhancer config.json": Reader(inputs.make_enhancer, "config.json", _enhanced, nonsense.in_tensors, (BYTES, JSON)),
    "enhancer weights": Reader(
        inputs.make_enhancer, "model.safetensors", _enhanced, nonsense.in_tensors, (BYTES, SAFETENSORS), _seal_enhancer
    ),
    "Difix .pkl": Reader(
        inputs.make_difix,
        "model.pkl",
        _converted,
        nonsense.in_tensors,
        (BYTES, TORCH),
        modules=("harmonizer_ns.enhancers.difix.enhancer",),
    ),
    "pairs.json": Reader(
        inputs.make_pairs,
        "pairs.json",
        lambda folder: read_pairs(folder / "pairs.json"),
        nonsense.in_pairs,
        (BYTES, JSON),
    ),
    "nerfstudio config.yml": Reader(
        inputs.make_nerfstudio_run,
        "config.yml",
        _config,
        lambda config: iter(()),
        modules=("harmonizer_ns.plugin.configs",),
    ),
    "gsplat_trainer checkpoint": Reader(
        _make_gsplat_run,
        "full_000007_rank0.safetensors",
        _resumed,
        _in_resumed,
        (BYTES, FULL_CHECKPOINT),
        modules=("gsplat_trainer.trainer",),
    ),
    "training state.json": Reader(
        inputs.make_training_run,
        "step-00000007/state.json",
        lambda folder: load_run(folder / "step-00000007"),
        lambda run: nonsense.in_step(run.step),
        (BYTES, JSON),
    ),
    "training weights": Reader(
        inputs.make_training_run,
        "step-00000007/weights.safetensors",
        lambda folder: load_run(folder / "step-00000007").tensors["weights"],
        nonsense.in_tensors,
    ),
    "recipe": Reader(inputs.make_recipe, "recipe.yaml", _recipe, nonsense.in_settings, (BYTES, YAML)),
    "frame of footage": Reader(inputs.make_footage, "frames/0.png", partial(_film, name="frames"), nonsense.in_frames),
    "video": Reader(inputs.make_footage, "film.mp4", partial(_film, name="film.mp4"), nonsense.in_frames),
}
