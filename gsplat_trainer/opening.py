# SPDX-License-Identifier: Apache-2.0
"""A finished run is opened to be looked at: its splats as the last checkpoint has them, and its photos."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from gsplat_trainer.config import Config, DefaultConfig, HarmonizeConfig
from gsplat_trainer.scene import load_data
from harmonizer_ns.captures.capture import Format
from harmonizer_ns.captures.photos import Alpha
from harmonizer_ns.devices import on_device
from harmonizer_ns.distill.settings import GSPLAT_TRAINER
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import by_number, read_yaml
from harmonizer_ns.splats.files import read_splats
from harmonizer_ns.splats.held_out import SparseFit
from harmonizer_ns.splats.rendering import RasterOptions, SplatRenderer
from harmonizer_ns.strict_dataclasses import build


def open_run(folder: Path, device: str) -> tuple[SparseFit, Config]:
    """Open a run of any of the three commands.

    Args:
        folder: its result folder.
        device: where to render.

    Returns:
        the splats with the run's photos, split as it did, and its settings.

    Raises:
        InputError: when the folder is of no such run, or has no checkpoint, or its photos are not where they were.
    """
    config = read_settings(folder)
    found = by_number(folder.glob("ckpts/ckpt_*_rank0.pt"))
    if not found:
        raise InputError(f"{folder} has no checkpoint (ckpts/ckpt_*_rank0.pt): was the run interrupted early?")
    if config.data_dir is None:
        raise InputError(f"the run in {folder} had a camera path and no photos, there is nothing to compare with")
    scene = load_data(config)
    if isinstance(config, HarmonizeConfig):
        scene = scene.in_frame(config.ply_transform)
    splats = on_device(read_splats(found[-1], origin=scene.origin), device)
    options = RasterOptions(config.near_plane, config.far_plane, config.antialiased)
    return SparseFit(scene.to(device), SplatRenderer(splats, options=options)), config


def read_settings(folder: Path) -> Config:
    """Read those settings of a run that say what it learned from, and how it is drawn; the others are defaults.

    Raises:
        InputError: when the file is missing or damaged.
    """
    file = folder / GSPLAT_TRAINER
    values = read_yaml(file)
    if not isinstance(values, dict):
        raise InputError(f"{file} should hold the settings of a run, it holds a {type(values).__name__}")
    names = {item.name for item in fields(_Saved)}
    saved = vars(build(_Saved, {name: value for name, value in values.items() if name in names}, str(file)))
    paths = {name: None if saved[name] is None else Path(saved[name]) for name in _PATHS}
    kind = HarmonizeConfig if "ply" in values else DefaultConfig
    saved = {name: value for name, value in saved.items() if name != "ply_transform" or kind is HarmonizeConfig}
    return replace(kind(), **{**saved, **paths, "result_dir": folder})


@dataclass(frozen=True)
class _Saved:
    """Settings as ``cfg.yml`` holds them; paths are text."""

    data_dir: str | None = None
    data_format: Format = "auto"
    data_factor: int = 1
    test_every: int = 8
    train_list: str | None = None
    test_list: str | None = None
    mask_dir: str | None = None
    alpha: Alpha = "mask"
    normalize_world_space: bool = False
    ply_transform: str = "none"
    near_plane: float = 0.01
    far_plane: float = 1e10
    antialiased: bool = False
    enhancer: str = "builtin"


_PATHS = ("data_dir", "train_list", "test_list", "mask_dir")
