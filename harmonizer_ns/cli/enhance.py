# SPDX-License-Identifier: Apache-2.0
"""``harmonizer enhance INPUT OUTPUT``: repair images, folders and videos with an enhancer."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.enhancers.files import check_paths, enhance_path, find_references
from harmonizer_ns.enhancers.sequence import FrameEnhancer
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.errors import InputError


@dataclass(frozen=True)
class EnhanceConfig:
    """Repair an image, a folder of images or a video; what is there already is not done again."""

    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """An image, a folder of images, or a video."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """An image for an image; a folder or a video (.mp4, .mov, .mkv) for a folder or a video. Sound is kept."""
    enhancer: str = "builtin"
    """A name that `harmonizer enhancers` lists, or the folder of a checkpoint."""
    ref: tuple[Path, ...] = ()
    """Real photos of the scene for every frame, or one folder with a photo for each (same names or same order)."""
    device: str = "auto"
    """Where to run: cpu, cuda, cuda:1. auto takes a GPU when there is one."""
    batch: int = 4
    """Frames at once, for enhancers that take each frame by itself."""
    temporal: bool = True
    """Show temporal enhancers their last outputs; --no-temporal for images that do not follow each other in time."""
    side_by_side: bool = False
    """Write input and output beside each other."""
    overwrite: bool = False
    """Do again what is there already."""
    fps: float | None = None
    """Frames per second of a video; by default the input's, or 24 for a folder."""


def main(arguments: list[str] | None = None) -> None:
    """Load the enhancer, then repair what the command line names, with a progress bar."""
    config = tyro.cli(EnhanceConfig, args=arguments, prog="harmonizer enhance", description=EnhanceConfig.__doc__)
    check_paths(config.input, config.output)
    references = find_references(config.ref)
    enhancer = load_enhancer(config.enhancer, _device(config.device))
    _warn(config, enhancer)
    frames = FrameEnhancer(enhancer, references, max(1, config.batch), config.temporal)
    done = _with_progress_bar(config, frames)
    print(f"{done} frames repaired: {config.output}" if done else f"nothing to do: {config.output} is there already")


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {name}: torch finds no GPU here; --device cpu works everywhere")
    return name


def _warn(config: EnhanceConfig, enhancer: Enhancer) -> None:
    if getattr(enhancer, "needs_geometry", False):
        print(
            f"warning: the enhancer {config.enhancer} warps photos by depth and cameras, which files do not have: "
            "it leaves them as they are, with or without --ref. Use it inside a reconstruction (ns-train harmonize), "
            "or give another --enhancer here.",
            file=sys.stderr,
        )
    elif config.ref and not enhancer.max_references:
        print(f"warning: the enhancer {config.enhancer} uses no reference photos, --ref has no effect", file=sys.stderr)


def _with_progress_bar(config: EnhanceConfig, frames: FrameEnhancer) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as bar:
        task = bar.add_task(config.input.name, total=None)
        return enhance_path(
            config.input,
            config.output,
            frames,
            side_by_side=config.side_by_side,
            overwrite=config.overwrite,
            fps=config.fps,
            progress=lambda done, total: bar.update(task, completed=done, total=max(done, total)),
        )


if __name__ == "__main__":
    main()
