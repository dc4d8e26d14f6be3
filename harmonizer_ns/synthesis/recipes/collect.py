# SPDX-License-Identifier: Apache-2.0
"""What was made is gathered: the pairs file, figures, and a contact sheet of each stream to look at."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from harmonizer_ns.files import write_json, written_whole
from harmonizer_ns.images import contact_sheet, labelled, load_image, resize, save_image
from harmonizer_ns.pairs import Pair, write_pairs
from harmonizer_ns.spread import evenly_spread
from harmonizer_ns.synthesis.recipes.items import MadePair, read_item
from harmonizer_ns.synthesis.recipes.plan import Plan
from harmonizer_ns.types import Frames
from harmonizer_ns.warp import REFERENCE_TOLERANCE, backward_warp

_ROWS, _WIDTH, _GAP = 8, 320, 4  # of a contact sheet; sizes in pixels


def collect(plan: Plan, output: Path) -> list[str]:
    """Write ``pairs.json``, the same for each stream, ``summary.json`` and the contact sheets of all finished items.

    Files of single streams are for weights of their own in training, and for enhancers that need cameras.

    Returns:
        A line on each stream.
    """
    streams: dict[str, list[MadePair]] = {}
    tests: set[str] = set()
    for item in plan.items:
        if found := read_item(item, output):
            streams.setdefault(item.stream, []).extend(found)
            tests |= {pair.name for pair, _ in found if item.scene in plan.test_scenes}
    figures = {name: _figures(found, tests) for name, found in streams.items()}
    for name, found in streams.items():
        save_sheet(output / f"sheet_{name}.png", found)
        _write_pairs(output / f"pairs_{name}.json", found, tests)
    known = {"recipe": plan.recipe.name, "seed": plan.recipe.seed, "test_scenes": sorted(plan.test_scenes)}
    write_json(output / "summary.json", {**known, "streams": figures})
    _write_pairs(output / "pairs.json", [pair for found in streams.values() for pair in found], tests)
    return [_line(name, figure) for name, figure in figures.items()]


def _write_pairs(path: Path, found: list[MadePair], tests: set[str]) -> None:
    train = [pair for pair, _ in found if pair.name not in tests]
    write_pairs(path, train, [pair for pair, _ in found if pair.name in tests])


def _figures(found: list[MadePair], tests: set[str]) -> dict[str, Any]:
    values = [value for _, value in found if value is not None]
    psnr = {"min": min(values), "median": statistics.median(values), "max": max(values)} if values else None
    test = sum(pair.name in tests for pair, _ in found)
    clips = len({pair.clip for pair, _ in found if pair.clip})
    return {
        "pairs": len(found),
        "train": len(found) - test,
        "test": test,
        "clips": clips,
        "unchanged": len(found) - len(values),
        "psnr": psnr,
    }


def _line(name: str, figures: dict[str, Any]) -> str:
    line = f"{name}: {figures['pairs']} pairs ({figures['test']} for testing), {figures['clips']} clips"
    if psnr := figures["psnr"]:
        line += f", input against target {psnr['min']:.1f} to {psnr['max']:.1f} dB, median {psnr['median']:.1f}"
    return line + (f", {figures['unchanged']} unchanged" if figures["unchanged"] else "")


def save_sheet(path: Path, found: list[MadePair]) -> None:
    """Write rows of pairs spread over a stream: input, target, and mask and best reference photo where there are such.

    Args:
        path: of the PNG.
        found: pairs of one stream.
    """
    rows = [[_row(made)] for made in evenly_spread(found, _ROWS)]
    with written_whole(path) as partial:
        save_image(partial, contact_sheet(rows, _GAP))


def _row(made: MadePair) -> Float[Tensor, "3 h w"]:
    """Put pictures beside each other, each under its title."""
    pictures = _pictures(*made)
    title, first = next(iter(pictures.items()))
    height = max(1, round(first.shape[1] * _WIDTH / first.shape[2]))
    return labelled(pictures | {title: resize(first[None], height, _WIDTH)[0]}, _GAP)


def _pictures(pair: Pair, psnr: float | None) -> dict[str, Float[Tensor, "3 h w"]]:
    image, difference = load_image(pair.image), "unchanged" if psnr is None else f"{psnr:.1f} dB"
    pictures = {f"{pair.name}: input, {difference}": image, "target": load_image(pair.target_image)}
    if pair.mask:
        pictures["mask"] = load_image(pair.mask)
    if pair.references:
        title, reference = _reference(pair, image)
        pictures[title] = reference
    return pictures


def _reference(pair: Pair, image: Float[Tensor, "3 h w"]) -> tuple[str, Float[Tensor, "3 h w"]]:
    """Warp the best reference into the image by the image's own depth; where it shows nothing, the image is grey."""
    photo = load_image(pair.references[0])[None]
    depths = load_file(pair.depth) if pair.depth else {}
    if pair.cameras is None or "reference_depths" not in depths:
        return "reference", photo[0]
    depth, other_depth = depths["depth"].float()[None, None], depths["reference_depths"][:1, None].float()
    source = Frames(photo, torch.ones_like(other_depth), other_depth, pair.cameras[1])
    warped = backward_warp(source, depth, pair.cameras[0], REFERENCE_TOLERANCE)
    return "warped reference", torch.lerp(image.mean(0, keepdim=True) / 2, warped.rgb[0], warped.valid[0])
