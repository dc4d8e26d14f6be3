# SPDX-License-Identifier: Apache-2.0
"""Training samples for enhancers from sparse and under-fitted splats (two data recipes of Difix3D+, Wu et al. 2025).

For each scene and several random settings, a splat is fitted to every ``n``-th photo for few or many steps. Its
renders at photos that it has not seen carry real splat artifacts and come with the photo that they should look like;
a few renders at photos it *has* seen are nearly clean and teach an enhancer to leave good pixels alone.

One safetensors file per view, ``OUTPUT/<scene>/<recipe>_<view>.safetensors`` with ``<view>`` the photo's index in
capture order (``r`` references, best first, 0 <= r <= 3):

| tensor | shape | what |
|---|---|---|
| render, target | uint8 3 h w | plain render, photo |
| alpha | uint8 1 h w | opacity of the render |
| depth | float16 1 h w | its z-depth in scene units, 0 where empty |
| warps, valid | uint8 r 3 h w, r 1 h w | nearest fitted photos warped into the view through its depth |
| camera_to_world, intrinsics | float32 1+r 4 4, 1+r 3 3 | the view, then the references |
| previous, previous_valid | uint8 2 3 h w, 2 1 h w | warped neighbouring frame: its photo, its plain render |

with metadata scene, recipe, every, steps, view, near_clean and split.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from harmonizer_ns.captures.capture import Capture, load_capture
from harmonizer_ns.images import to_uint8
from harmonizer_ns.splats.fit import SplatConfig, SplatReconstructor
from harmonizer_ns.splats.held_out import SparseFit, Split, every_nth, fit_sparse, select_references
from harmonizer_ns.spread import evenly_spread
from harmonizer_ns.types import Frames, cat_cameras, cat_frames
from harmonizer_ns.warp import REFERENCE_TOLERANCE, warp_all

_FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Setting:
    """One way to damage a scene.

    Args:
        every: every n-th photo is fitted; 1 fits all of them.
        steps: optimisation steps.
        offset: index of the first fitted photo.
        seed: seed of the fit.
    """

    every: int
    steps: int
    offset: int = 0
    seed: int = 0

    @property
    def recipe(self) -> str:
        """Its name in file names."""
        return f"n{self.every}o{self.offset}_s{self.steps}"


@dataclass(frozen=True)
class SparseConfig:
    """Make enhancer training samples from captures."""

    scenes: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR...")]
    """Capture folders (transforms.json, images, seed points)."""
    output: Path
    """Where to write; settings that are already there are skipped."""
    width: int | None = 240
    """Width of photos and renders in pixels."""
    settings: int = 4
    """Random settings per scene."""
    steps: tuple[int, int] = (150, 1200)
    """Range of the optimisation steps (log-uniform)."""
    every: tuple[int, int] = (2, 6)
    """Range of n: every n-th photo is fitted (1 to 2 in the near-clean settings, every third one)."""
    views: int = 12
    """Held-out views written per setting."""
    near_clean: int = 4
    """Views at fitted photos written per setting; twice as many where all photos are fitted."""
    split: str = "train"
    """Written into the metadata."""
    seed: int = 0
    """Seed of all that is random."""
    threads: int = 1
    """Torch threads."""
    splat: SplatConfig = field(default_factory=SplatConfig)
    """The fitter; its steps and seed come from the setting."""

    def __post_init__(self) -> None:
        for name, (low, high) in (("steps", self.steps), ("every", self.every)):
            if not 1 <= low <= high:
                raise ValueError(f"{name} must be a range from at least 1, got {(low, high)}")


def main(config: SparseConfig) -> None:
    """Write the samples of every scene."""
    torch.set_num_threads(config.threads)
    console = Console()
    for folder in config.scenes:
        capture = load_capture(folder, config.width)
        for setting in draw_settings(capture, config):
            start = time.perf_counter()
            written = write_setting(capture, setting, config)
            console.print(f"{capture.name} {setting.recipe}: {written} samples, {time.perf_counter() - start:.1f} s")


def draw_settings(capture: Capture, config: SparseConfig) -> list[Setting]:
    """The settings of a scene: the same for the same seed and scene name. Every third is nearly clean."""
    draw = random.Random(f"{config.seed}-{capture.name}")
    settings = []
    for i in range(config.settings):
        near_clean = i % 3 == 2
        every = draw.randint(1, 2) if near_clean else draw.randint(*config.every)
        every = max(1, min(every, len(capture) // 3))
        low, high = config.steps
        steps = max(low, high // 2) if near_clean else low
        steps = round(steps * (high / steps) ** draw.random())
        settings.append(Setting(every, steps, draw.randrange(every), config.seed + i))
    return settings


def write_setting(capture: Capture, setting: Setting, config: SparseConfig) -> int:
    """Fit the setting and write its samples; returns how many were missing and are written now."""
    split = every_nth(len(capture), setting.every, setting.offset)
    fitted = evenly_spread(split.train, config.near_clean if split.held_out else 2 * config.near_clean)
    paths = {
        view: config.output / capture.name / f"{setting.recipe}_{view:04d}.safetensors"
        for view in evenly_spread(split.held_out, config.views) + fitted
    }
    missing = {view: path for view, path in paths.items() if not path.exists()}
    if missing:
        fit = fit_setting(capture, split, setting, config.splat)
        for view, path in missing.items():
            write_sample(path, build_sample(fit, view), _metadata(fit, view, setting, config.split))
    return len(missing)


def fit_setting(capture: Capture, split: Split, setting: Setting, splat: SplatConfig) -> SparseFit:
    """Fit a splat as the setting says."""
    return fit_sparse(capture, split, SplatReconstructor(replace(splat, steps=setting.steps, seed=setting.seed)))


def build_sample(fit: SparseFit, view: int) -> dict[str, Tensor]:
    """All tensors of one view, as the table above describes them."""
    photo = fit.capture.frames(view)
    render = fit.renderer.render(photo.cameras)
    references = select_references(fit, render.cameras, exclude=(view,))
    warped = warp_all(references, render, REFERENCE_TOLERANCE)
    previous = warp_all(neighbour_frames(fit, view), render)
    cameras = cat_cameras([render.cameras, *([references.cameras] if references is not None else [])])
    return {
        "render": to_uint8(render.rgb[0]),
        "target": to_uint8(photo.rgb[0]),
        "alpha": to_uint8(render.alpha[0]),
        "depth": render.depth[0].clamp(0, _FLOAT16_MAX).half(),
        "warps": to_uint8(warped.rgb),
        "valid": to_uint8(warped.valid),
        "camera_to_world": cameras.camera_to_world.float(),
        "intrinsics": cameras.intrinsics.float(),
        "previous": to_uint8(previous.rgb),
        "previous_valid": to_uint8(previous.valid),
    }


def neighbour_frames(fit: SparseFit, view: int) -> Frames:
    """The neighbouring frame as a photo and as a plain render, both with rendered depth.

    The frame before the view in capture order, unless that was fitted (its render is too good to stand for an
    earlier output) and the frame after it was not.
    """
    candidates = [i for i in (view - 1, view + 1) if 0 <= i < len(fit.capture)]
    unseen = [i for i in candidates if i not in fit.split.train]
    photo = fit.capture.frames((unseen or candidates or [view])[0])
    render = fit.renderer.render(photo.cameras)
    return cat_frames([Frames(photo.rgb, photo.alpha, render.depth, photo.cameras), render])


def write_sample(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write one sample; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial, metadata)
    os.replace(partial, path)


def _metadata(fit: SparseFit, view: int, setting: Setting, split: str) -> dict[str, str]:
    return {
        "scene": fit.capture.name,
        "recipe": setting.recipe,
        "every": str(setting.every),
        "steps": str(setting.steps),
        "view": fit.capture.names[view],
        "near_clean": str(view in fit.split.train).lower(),
        "split": split,
    }


if __name__ == "__main__":
    main(tyro.cli(SparseConfig))
