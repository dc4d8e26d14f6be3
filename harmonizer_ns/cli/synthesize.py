# SPDX-License-Identifier: Apache-2.0
"""Make training pairs: ``harmonizer synthesize RECIPE.yaml --output DIR``. A second run continues the first."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from harmonizer_ns.errors import InputError

if TYPE_CHECKING:
    from harmonizer_ns.synthesis.recipes.items import Place


@dataclass(frozen=True)
class SynthesizeConfig:
    """Make training pairs from a recipe."""

    recipe: tyro.conf.Positional[Path]
    """YAML file: streams, counts, seeds, scenes."""
    output: Path
    """Folder that receives images, pairs.json and contact sheets."""
    workers: int = 1
    """Processes on this machine."""
    ray: bool = False
    """Hand the items to Ray; all machines see the same folders."""
    rebuild: str = ""
    """Make the clip of this one pair anew, from its provenance in ``pairs``."""
    pairs: Path | None = None
    """With rebuild: the pairs file that holds it."""


def main(arguments: list[str] | None = None) -> None:
    """Make what the recipe says; problems are told at the end, with exit status 1."""
    config = tyro.cli(
        SynthesizeConfig,
        prog="harmonizer synthesize",
        description=__doc__,
        args=sys.argv[1:] if arguments is None else arguments,
    )
    if config.workers < 1:
        raise InputError(f"--workers should be at least 1, got {config.workers}")
    from harmonizer_ns.synthesis.recipes.items import Place

    place = Place(config.recipe.resolve().parent, config.output.resolve())
    problems = _rebuild(config, place) if config.rebuild else _synthesize(config, place)
    if problems:
        raise InputError("\n  ".join([f"{len(problems)} problems, everything else was made:", *problems]))


def _synthesize(config: SynthesizeConfig, place: Place) -> list[str]:
    from harmonizer_ns.synthesis.recipes.collect import collect
    from harmonizer_ns.synthesis.recipes.items import is_made
    from harmonizer_ns.synthesis.recipes.plan import make_plan
    from harmonizer_ns.synthesis.recipes.recipe import read_recipe
    from harmonizer_ns.synthesis.recipes.running import run_items

    plan = make_plan(read_recipe(config.recipe))
    missing = [item for item in plan.items if not is_made(item, place.output)]
    print(f"{len(plan.items)} items, {len(missing)} to be made")
    found = [problem for problem in run_items(missing, place, config.workers, config.ray) if problem]
    print("\n".join(collect(plan, place.output)))
    return [*plan.problems, *sorted(found)]


def _rebuild(config: SynthesizeConfig, place: Place) -> list[str]:
    from harmonizer_ns.pairs import read_pairs
    from harmonizer_ns.synthesis.recipes.items import rebuild

    if config.pairs is None:
        raise InputError("--rebuild needs --pairs FILE")
    pairs = read_pairs(config.pairs)
    named = [pair for pair in (*pairs.train, *pairs.test) if pair.name == config.rebuild]
    if not named:
        raise InputError(f"{config.pairs} has no pair {config.rebuild!r}")
    print(f"rebuilt in {rebuild(named[0], place)}")
    return []


if __name__ == "__main__":
    main()
