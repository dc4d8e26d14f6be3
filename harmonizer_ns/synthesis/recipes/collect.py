# SPDX-License-Identifier: Apache-2.0
"""Gather what was made: the pairs file, a contact sheet for each stream, and figures."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

from harmonizer_ns.pairs import Pair, write_pairs
from harmonizer_ns.synthesis.recipes.items import read_item
from harmonizer_ns.synthesis.recipes.plan import Plan
from harmonizer_ns.synthesis.recipes.sheets import save_sheet

Found = list[tuple[Pair, float | None]]
"""Pairs with their PSNR in dB; None: image and target are equal."""


def collect(plan: Plan, output: Path) -> list[str]:
    """Write ``pairs.json``, the same for each stream, ``summary.json`` and the contact sheets of all finished items.

    Files of single streams are for weights of their own in training, and for enhancers that need cameras.

    Returns:
        A line on each stream.
    """
    streams: dict[str, Found] = {}
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


def _write_pairs(path: Path, found: Found, tests: set[str]) -> None:
    train = [pair for pair, _ in found if pair.name not in tests]
    write_pairs(path, train, [pair for pair, _ in found if pair.name in tests])


def _figures(found: Found, tests: set[str]) -> dict[str, Any]:
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
    content = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "test_scenes": sorted(plan.test_scenes),
        "streams": figures,
    }
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _line(name: str, figures: dict[str, Any]) -> str:
    line = f"{name}: {figures['pairs']} pairs ({figures['test']} for testing), {figures['clips']} clips"
    if psnr := figures["psnr"]:
        line += f", input against target {psnr['min']:.1f} to {psnr['max']:.1f} dB, median {psnr['median']:.1f}"
    return line + (f", {figures['unchanged']} unchanged" if figures["unchanged"] else "")
