# SPDX-License-Identifier: Apache-2.0
"""What was made is gathered: the pairs file, figures, and a contact sheet of each stream to look at."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor

from harmonizer_ns.files import write_json, written_whole
from harmonizer_ns.images import load_image, resize, to_uint8
from harmonizer_ns.pairs import Pair, write_pairs
from harmonizer_ns.synthesis.recipes.items import MadePair, read_item
from harmonizer_ns.synthesis.recipes.plan import Plan
from harmonizer_ns.types import Frames
from harmonizer_ns.warp import REFERENCE_TOLERANCE, backward_warp

_ROWS, _WIDTH, _GAP, _TITLE = 8, 320, 4, 14  # of a contact sheet; sizes in pixels


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
    _write_summary(output / "summary.json", plan, figures)
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


def _write_summary(path: Path, plan: Plan, figures: dict[str, Any]) -> None:
    recipe = plan.recipe
    known = {"recipe": recipe.name, "seed": recipe.seed, "test_scenes": sorted(plan.test_scenes)}
    write_json(path, {**known, "streams": figures})


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
    count = min(_ROWS, len(found))
    chosen = [found[(2 * i + 1) * len(found) // (2 * count)] for i in range(count)]
    rows = [_row(pair, psnr) for pair, psnr in chosen]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    with written_whole(path) as partial:
        sheet.save(partial, format="PNG")


def _row(pair: Pair, psnr: float | None) -> Image.Image:
    columns = _columns(pair, psnr)
    height = max(1, round(columns[0][1].shape[1] * _WIDTH / columns[0][1].shape[2]))
    row = Image.new("RGB", ((_WIDTH + _GAP) * len(columns), height + _TITLE + _GAP), "white")
    draw = ImageDraw.Draw(row)
    for i, (title, image) in enumerate(columns):
        small = to_uint8(resize(image[None], height, _WIDTH)[0]).permute(1, 2, 0).contiguous().numpy()
        row.paste(Image.fromarray(small), (i * (_WIDTH + _GAP), _TITLE))
        draw.text((i * (_WIDTH + _GAP) + 2, 1), title, fill="black")
    return row


def _columns(pair: Pair, psnr: float | None) -> list[tuple[str, Float[Tensor, "3 h w"]]]:
    image, difference = load_image(pair.image), "unchanged" if psnr is None else f"{psnr:.1f} dB"
    columns = [(f"{pair.name}: input, {difference}", image), ("target", load_image(pair.target_image))]
    if pair.mask:
        columns.append(("mask", load_image(pair.mask)))
    if pair.references:
        columns.append(_reference(pair, image))
    return columns


def _reference(pair: Pair, image: Float[Tensor, "3 h w"]) -> tuple[str, Float[Tensor, "3 h w"]]:
    """The best reference, warped into the image by the image's own depth; the image in grey where it shows nothing."""
    photo = load_image(pair.references[0])[None]
    depths = load_file(pair.depth) if pair.depth else {}
    if pair.cameras is None or "reference_depths" not in depths:
        return "reference", photo[0]
    depth, other_depth = depths["depth"].float()[None, None], depths["reference_depths"][:1, None].float()
    source = Frames(photo, torch.ones_like(other_depth), other_depth, pair.cameras[1])
    warped = backward_warp(source, depth, pair.cameras[0], REFERENCE_TOLERANCE)
    return "warped reference", torch.lerp(image.mean(0, keepdim=True) / 2, warped.rgb[0], warped.valid[0])
