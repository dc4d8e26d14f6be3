# SPDX-License-Identifier: Apache-2.0
"""``harmonizer enhance INPUT OUTPUT``: repair images, folders and videos with an enhancer."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from harmonizer_ns.cli.parsing import read_options
from harmonizer_ns.devices import DTYPES, Device, Precision, choose_device
from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.enhancers.specs import load_enhancer, options_of
from harmonizer_ns.errors import InputError
from harmonizer_ns.footage.files import check_paths, enhance_path, find_references, frame_names
from harmonizer_ns.footage.sequence import FrameEnhancer

EXAMPLES = """
harmonizer enhance renders/ fixed/ --enhancer difix-ref --ref photo.png   # a folder
harmonizer enhance drive.mp4 fixed.mp4 --enhancer harmonizer              # a video
harmonizer enhance render.png fixed.png --enhancer my-folder --side-by-side
"""


@dataclass(frozen=True)
class EnhanceConfig:
    """Repair an image, a folder of images or a video. Results that exist are kept, unless --overwrite is given."""

    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """An image, a folder of images, or a video."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """An image for an image; a folder or a video (.mp4, .mov, .mkv) for a folder or a video. Sound is kept."""
    enhancer: str = "builtin"
    """A name that `harmonizer enhancers` lists, or the folder of a checkpoint."""
    ref: tuple[Path, ...] = ()
    """Real photos of the scene for every frame, or one folder with a photo for each (same names or same order)."""
    device: Device = "auto"
    """Where to run; auto takes a GPU when there is one."""
    precision: Precision = "auto"
    """Number type of large networks; auto is bf16 on a GPU (fp16 before Ampere) and fp32 elsewhere."""
    compile: bool = False
    """Compile the network, with CUDA graphs on a GPU: slow to start, for every image size anew, then faster."""
    tile: int = 0
    """Side in pixels of the tiles in which an autoencoder works, for large frames on small cards; 0: whole frames."""
    tiny_decoder: str | None = None
    """Folder or Hub repository (madebyollin/taesd) of a tiny decoder for Difix: faster, but fine detail is lost."""
    batch: int = 4
    """Frames at once, for enhancers that take each frame by itself."""
    temporal: bool = True
    """Show temporal enhancers their last outputs; --no-temporal for images that do not follow each other in time."""
    side_by_side: bool = False
    """Write input and output beside each other."""
    overwrite: bool = False
    """Repair anew what exists already."""
    fps: float | None = None
    """Frames per second of a video; by default the input's, or 24 for a folder."""


parse = partial(read_options, EnhanceConfig, "enhance", EXAMPLES)


def main(config: EnhanceConfig) -> None:
    """Load the enhancer, then repair what the command line names, with a progress bar."""
    options = _options(config)
    check_paths(config.input, config.output)
    references = find_references(config.ref, frame_names(config.input))
    device = choose_device(config.device)
    enhancer = load_enhancer(config.enhancer, device, **options)
    _warn(config, enhancer)
    frames = FrameEnhancer(enhancer, references, config.batch, config.temporal, device)
    done = _with_progress_bar(config, options, frames)
    count = "1 frame" if done == 1 else f"{done} frames"
    print(f"{count} repaired: {config.output}" if done else f"nothing to do: {config.output} is there already")


def _options(config: EnhanceConfig) -> dict[str, Any]:
    """Tell what was asked for that not every enhancer has.

    Raises:
        InputError: when there is no such enhancer, or it has no such option.
    """
    wanted = {
        "--precision": ("dtype", DTYPES.get(config.precision)),
        "--compile": ("compiled", config.compile),
        "--tile": ("tile", config.tile),
        "--tiny-decoder": ("tiny_decoder", config.tiny_decoder),
    }
    given = {flag: option for flag, option in wanted.items() if option[1]}
    known = options_of(config.enhancer)
    for flag, (name, _) in given.items():
        if name not in known:
            raise InputError(f"the enhancer {config.enhancer} has no {flag}")
    return dict(given.values())


def _warn(config: EnhanceConfig, enhancer: Enhancer) -> None:
    if enhancer.needs_geometry:
        print(
            f"warning: the enhancer {config.enhancer} warps photos by depth and cameras, which files do not have: "
            "it can do little here, with or without --ref. Use it inside a reconstruction (ns-train harmonize), "
            "or give another --enhancer here.",
            file=sys.stderr,
        )
    elif config.ref and not enhancer.max_references:
        print(f"warning: the enhancer {config.enhancer} uses no reference photos, --ref has no effect", file=sys.stderr)


def _with_progress_bar(config: EnhanceConfig, options: dict[str, Any], frames: FrameEnhancer) -> int:
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
            repair=repr([config.enhancer, config.ref, config.temporal, options]),
        )
