# SPDX-License-Identifier: Apache-2.0
"""Make one item: a folder of images and ``item.json``, which appears whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import save_image, to_float, to_uint8
from harmonizer_ns.pairs import Pair
from harmonizer_ns.synthesis.recipes.plan import Item
from harmonizer_ns.synthesis.recipes.recipe import settings_of
from harmonizer_ns.synthesis.streams.base import load_clip
from harmonizer_ns.synthesis.streams.table import STREAMS


@dataclass(frozen=True)
class Place:
    """Where items come from and go to: the recipe's folder, the output folder."""

    root: Path
    output: Path


def is_made(item: Item, output: Path) -> bool:
    """Whether the very same item is there."""
    path = output / item.name / "item.json"
    return path.is_file() and json.loads(path.read_text())["digest"] == item.digest


def make_item(item: Item, place: Place) -> str | None:
    """Make an item, unless it is there; returns what is wrong with its input, or None."""
    torch.set_num_threads(1)
    if is_made(item, place.output):
        return None
    folder = place.output / item.name
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        _write(item, place.root, partial)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except InputError as error:
        return f"{item.name}: {error}"
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return None


def _write(item: Item, root: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    clip = load_clip(tuple(root / file for file in item.files), item.width)
    settings = settings_of(item.kind, item.settings, item.name)
    frames = []
    for number, made in enumerate(STREAMS[item.kind].make(clip, settings, item.seed)):
        target, image = clip.frames[number], to_float(to_uint8(made.image))
        save_image(folder / f"{number:03d}_image.png", image)
        save_image(folder / f"{number:03d}_target.png", target)
        save_image(folder / f"{number:03d}_mask.png", made.mask.expand(3, -1, -1))
        frames.append({"parameters": made.parameters, "psnr": _psnr(image, target)})
    document = {"digest": item.digest, "item": dataclasses.asdict(item), "frames": frames}
    (folder / "item.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _psnr(image: torch.Tensor, target: torch.Tensor) -> float | None:
    """In dB; None for equal images."""
    error = (image - target).square().mean().item()
    return round(-10 * math.log10(error), 3) if error else None


def read_item(item: Item, output: Path) -> list[tuple[Pair, float | None]]:
    """The pairs of an item that is there, with their PSNR."""
    folder = output / item.name
    frames = json.loads((folder / "item.json").read_text())["frames"]
    return [(_pair(item, folder, number, frame), frame["psnr"]) for number, frame in enumerate(frames)]


def _pair(item: Item, folder: Path, number: int, frame: dict[str, Any]) -> Pair:
    return Pair(
        f"{item.name}/{number:03d}",
        folder / f"{number:03d}_image.png",
        folder / f"{number:03d}_target.png",
        mask=folder / f"{number:03d}_mask.png",
        clip=item.name if len(item.files) > 1 else None,
        frame=number if len(item.files) > 1 else None,
        source={**dataclasses.asdict(item), "file": item.files[number], "parameters": frame["parameters"]},
    )


def rebuild(pair: Pair, place: Place) -> Path:
    """Make a pair's clip anew from its provenance alone; returns the clip's folder below ``place.output``.

    Raises:
        InputError: when the provenance is incomplete, or the clip cannot be made.
    """
    source = pair.source if isinstance(pair.source, dict) else {}
    names = [field.name for field in dataclasses.fields(Item)]
    if missing := [name for name in names if name not in source]:
        raise InputError(f"{pair.name} has no provenance to rebuild it from: {', '.join(missing)} missing")
    item = Item(**{**{name: source[name] for name in names}, "files": tuple(source["files"])})
    if item.kind not in STREAMS or (place.output / item.name).resolve().parent.parent != place.output.resolve():
        raise InputError(f"{pair.name} has no good provenance: kind {item.kind!r}, stream {item.stream!r}")
    if problem := make_item(item, place):
        raise InputError(problem)
    return place.output / item.name
