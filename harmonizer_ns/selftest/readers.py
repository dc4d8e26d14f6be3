# SPDX-License-Identifier: Apache-2.0
"""One visible table of all that reads files of users: how a good one is made, which file is damaged, how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gsplat_trainer.checkpoint import load_full, newest_full
from harmonizer_ns.captures.capture import load_capture
from harmonizer_ns.captures.frame import read_dataparser_transforms
from harmonizer_ns.distill.targets import load_camera_path
from harmonizer_ns.distill.view_files import read_view
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.errors import damage_of
from harmonizer_ns.files import file_digest, read_json, write_json
from harmonizer_ns.footage.files import open_footage
from harmonizer_ns.images import to_float
from harmonizer_ns.pairs import read_pairs
from harmonizer_ns.selftest import inputs
from harmonizer_ns.selftest.damage import BYTES, FULL_CHECKPOINT, GZIP, JSON, SAFETENSORS, TORCH, YAML, Form
from harmonizer_ns.splats.files import read_splats
from harmonizer_ns.stereo.geometry import read_geometry
from harmonizer_ns.synthesis.recipes.recipe import read_recipe
from harmonizer_ns.training.checkpoints import load_run
from harmonizer_ns.types import as_frames


@dataclass(frozen=True)
class Reader:
    """A reader of one sort of file.

    Args:
        make: fills a folder with a good input.
        file: the one in it that is damaged.
        read: reads it from that folder, to the last value; bad input is an `InputError`.
        forms: how the file is taken apart.
        seal: mends what would give the damage away at once, such as a hash.
    """

    make: Callable[[Path], None]
    file: str
    read: Callable[[Path], Any]
    forms: tuple[Form, ...] = (BYTES,)
    seal: Callable[[Path], None] = lambda folder: None


def _of_capture(file: str, *forms: Form, part: str = "", **options: str) -> Reader:
    """A file of a capture, in ``part`` of the folder; options of `load_capture` name files and folders in it."""

    def read(folder: Path) -> Any:
        given: dict[str, Any] = {name: folder / value for name, value in options.items()}
        capture = load_capture(folder / part, test_every=2, with_tracks=bool(part), **given)
        for i in range(len(capture)):
            capture.photo(i)
        return capture

    return Reader(inputs.colmap if part else inputs.capture, file, read, forms or (BYTES,))


def _colmap(name: str) -> Reader:
    form = "binary" if name.endswith("bin") else "text"
    return _of_capture(f"{form}/sparse/0/{name}", part=form)


def _in_place(make: Callable[[Path], None], file: str, read: Callable[[Path], Any], *forms: Form) -> Reader:
    """A reader that takes the file itself, or its folder."""
    return Reader(make, file, lambda folder: read(folder / file), forms or (BYTES,))


def _of_frame(file: str) -> Reader:
    def read(folder: Path) -> Any:
        return read_dataparser_transforms(folder / "run" / "dataparser_transforms.json", torch.eye(4))

    return Reader(inputs.capture, f"run/{file}", read, (BYTES, JSON))


def _splats(suffix: str, *forms: Form) -> Reader:
    return _in_place(inputs.splats, f"splats.{suffix}", read_splats, *forms)


def _film(path: Path) -> Any:
    frames = [to_float(item.load()) for item in open_footage(path).items]
    return frames[0], [as_frames(frame) for frame in frames]


def _enhanced(folder: Path) -> Any:
    return load_enhancer(folder).enhance(as_frames(torch.full((3, 32, 32), 0.5)))


def _seal_enhancer(folder: Path) -> None:
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "sha256": file_digest(folder / "model.safetensors")})


def _config(folder: Path) -> Any:
    from harmonizer_ns.plugin.configs import read_config

    return read_config(folder / "config.yml")


def _converted(folder: Path) -> Any:
    from harmonizer_ns.enhancers.difix.enhancer import DifixEnhancer

    return dict(DifixEnhancer.from_pretrained(folder / "base", checkpoint=folder / "model.pkl").network.state_dict())


def _resumed(folder: Path) -> Any:
    trainer, path = inputs.gsplat_trainer(folder), newest_full(folder, 0)
    with damage_of(path):
        trainer.load_state_dict(load_full(path), folder)
    return {"step": trainer.step, "splats": {name: value.detach() for name, value in trainer.splats.items()}}


def _geometry(folder: Path) -> Any:
    found = read_geometry(folder / inputs.GEOMETRY, load_capture(folder).cameras)
    return [(one.depth, one.confidence, one.witnesses) for one in found.maps], found.seeds.points


READERS: dict[str, Reader] = {
    "transforms.json": _of_capture("transforms.json", BYTES, JSON),
    "points .ply": _of_capture("sparse_pc.ply"),
    "photo .png": _of_capture("images/0.png"),
    "photo .jpg": _of_capture("images/1.jpg"),
    "photo .tif, 16 bits": _of_capture("images/2.tif"),
    "mask": _of_capture("masks/0.png.png", masks="masks"),
    "train list": _of_capture("train.txt", train_list="train.txt", test_list="test.txt"),
    "test list": _of_capture("test.txt", train_list="train.txt", test_list="test.txt"),
    **{f"COLMAP {name}": _colmap(name) for name in ("cameras.bin", "images.bin", "points3D.bin")},
    **{f"COLMAP {name}": _colmap(name) for name in ("rigs.bin", "frames.bin")},
    **{f"COLMAP {name}": _colmap(name) for name in ("cameras.txt", "images.txt", "points3D.txt")},
    "dataparser_transforms.json": _of_frame("dataparser_transforms.json"),
    "world_origin.json": _of_frame("world_origin.json"),
    "camera_path.json": _in_place(inputs.capture, "camera_path.json", load_camera_path, BYTES, JSON),
    **{f"splats .{suffix}": _splats(suffix) for suffix in ("ply", "compressed.ply")},
    "splats .spz": _splats("spz", BYTES, GZIP),
    **{f"splats .{suffix}": _splats(suffix, BYTES, TORCH) for suffix in ("pt", "ckpt")},
    "enhancer config.json": Reader(inputs.enhancer, "config.json", _enhanced, (BYTES, JSON)),
    "enhancer weights": Reader(inputs.enhancer, "model.safetensors", _enhanced, (BYTES, SAFETENSORS), _seal_enhancer),
    "Difix .pkl": Reader(inputs.difix, "model.pkl", _converted, (BYTES, TORCH)),
    "pairs.json": _in_place(inputs.pairs, "pairs.json", read_pairs, BYTES, JSON),
    "nerfstudio config.yml": Reader(inputs.nerfstudio_run, "config.yml", _config),
    "gsplat_trainer checkpoint": Reader(inputs.gsplat_run, inputs.GSPLAT_STATE, _resumed, (BYTES, FULL_CHECKPOINT)),
    "pseudo-view": _in_place(inputs.pseudo_view, inputs.VIEW, lambda path: read_view(path, 32, 24)),
    "training state.json": Reader(inputs.training_run, "state.json", load_run, (BYTES, JSON)),
    "training weights": Reader(inputs.training_run, "weights.safetensors", load_run),
    "geometry of photos": Reader(inputs.geometry, inputs.GEOMETRY, _geometry, (BYTES, SAFETENSORS)),
    "recipe": _in_place(inputs.recipe, "recipe.yaml", read_recipe, BYTES, YAML),
    "frame of footage": Reader(inputs.footage, "frames/0.png", lambda folder: _film(folder / "frames")),
    "video": _in_place(inputs.footage, "film.mp4", _film),
}
