# SPDX-License-Identifier: Apache-2.0
"""``harmonizer synthesize RECIPE --output DIR``: make training pairs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from harmonizer_ns.cli.parsing import read_options
from harmonizer_ns.errors import InputError, of_extra
from harmonizer_ns.files import locked, remove_leftovers
from harmonizer_ns.pairs import read_pairs
from harmonizer_ns.progress import duration
from harmonizer_ns.synthesis.recipes.collect import collect
from harmonizer_ns.synthesis.recipes.items import ItemOutcome, item_of, make_item, read_item
from harmonizer_ns.synthesis.recipes.plan import Plan, PlannedItem, make_plan
from harmonizer_ns.synthesis.recipes.recipe import Recipe, read_recipe, with_folders
from harmonizer_ns.synthesis.streams.curation import SPLATS, CurationSettings
from harmonizer_ns.types import Reconstructor
from harmonizer_ns.workers import run_all

EXAMPLES = """
harmonizer synthesize mix --scenes captures/* --photos photos --output pairs
harmonizer synthesize shadows --output pairs              # needs no data at all
harmonizer synthesize --rebuild sparse/0_00/0000 --output pairs
"""
_LOG = "errors.log"  # of the last run
_Folders = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR [DIR ...]")]


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig:
    """Make training pairs.

    The recipe mixes streams of damage. The output folder receives images, pairs.json for
    `harmonizer train --pairs` (and pairs_STREAM.json, to weight streams), summary.json, and a contact sheet for each
    stream, sheet_STREAM.png. The same command again continues a run that ended early and remakes what has changed.
    """

    recipe: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RECIPE]")] = None
    """YAML file of streams, counts and settings, or a shipped one's name: mix, mix-tiny, builtin-sparse,
    shadows. Not needed with --rebuild."""
    output: Path
    """Folder that receives everything."""
    scenes: _Folders = ()
    """Scenes for the streams that name none: captures (COLMAP or transforms.json), or folders of images alone."""
    photos: _Folders = ()
    """Folders of single photos, which have nothing to do with each other, for the streams that name none."""
    workers: int = 1
    """Processes on this machine."""
    ray: bool = False
    """Give the work to a Ray cluster (or start Ray here) instead; all machines see the same folders."""
    rebuild: str = ""
    """Name of a pair: make it and its clip anew, from nothing but its provenance in OUTPUT/pairs.json."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"--workers should be at least 1, got {self.workers}")


parse = partial(read_options, SynthesizeConfig, "synthesize", EXAMPLES)


def main(config: SynthesizeConfig) -> None:
    """Make what the recipe says; problems are told at the end, with exit status 1."""
    output, recipe = config.output.resolve(), None if config.rebuild else _recipe(config)
    with locked(output):
        remove_leftovers(output, *filter(Path.is_dir, output.iterdir()))
        (output / _LOG).unlink(missing_ok=True)
        problems = _synthesize(recipe, config, output) if recipe else _rebuild(config.rebuild, output)
    if problems:
        raise InputError("\n  ".join([f"{len(problems)} problems, everything else is done:", *problems]))


def _recipe(config: SynthesizeConfig) -> Recipe:
    """Read the recipe and give it the folders of the command line, before anything else is read or written."""
    if config.recipe is None:
        raise InputError("name a recipe, such as mix, or a pair with --rebuild")
    return with_folders(read_recipe(config.recipe), config.scenes, config.photos)


def _synthesize(recipe: Recipe, config: SynthesizeConfig, output: Path) -> list[str]:
    plan = make_plan(recipe)
    for note in plan.notes:
        print(note)
    try:
        problems = [outcome.problem for outcome in _made(plan, config, output) if outcome.problem]
    except KeyboardInterrupt:
        sys.exit("interrupted; what is finished stays: run the same command again to continue")
    for line in collect(plan, output):
        print(line)
    return [*plan.problems, *sorted(problems)]


def _made(plan: Plan, config: SynthesizeConfig, output: Path) -> Iterator[ItemOutcome]:
    """Make what is missing, and tell about each item with the time that is left."""
    missing = [item for item in plan.items if read_item(item, output) is None]
    changed = sum((output / item.name).exists() for item in missing)
    print(f"{len(plan.items)} items, {len(missing)} to make{f', {changed} of them anew' if changed else ''}")
    start = time.monotonic()
    with closing(run_all(_maker(output), missing, config.workers, config.ray)) as outcomes:
        for number, outcome in enumerate(outcomes, start=1):
            left = (time.monotonic() - start) / number * (len(missing) - number)
            state = "failed" if outcome.problem else "made"
            say(f"[{number}/{len(missing)}] {outcome.name} {state}, about {duration(left)} left")
            _log(outcome, output)
            yield outcome


def _maker(output: Path) -> Callable[[PlannedItem], ItemOutcome]:
    """Tell what makes an item, here or in a worker process."""
    return partial(make_item, output=output, reconstructors={**SPLATS, "nerf": build_nerf}, say=say)


def say(line: str) -> None:
    """Print a line at once; worker processes find it by this function's name."""
    print(line, flush=True)


def build_nerf(settings: CurationSettings, seed: int) -> Reconstructor:
    """Give the NeRF fitter; worker processes find it by this function's name, and load nerfstudio when they need it.

    Raises:
        InputError: without nerfstudio.
    """
    with of_extra("nerfstudio", "the reconstructor nerf"):
        from harmonizer_ns.plugin.reconstruct import NerfConfig, NerfReconstructor
    return NerfReconstructor(NerfConfig(steps=settings.steps, seed=seed))


def _log(outcome: ItemOutcome, output: Path) -> None:
    """Keep the traceback of what should not have happened."""
    if outcome.log:
        with (output / _LOG).open("a", encoding="utf-8") as log:
            log.write(f"{outcome.log}\n")


def _rebuild(name: str, output: Path) -> list[str]:
    pairs = read_pairs(output / "pairs.json")
    named = [pair for pair in (*pairs.train, *pairs.test) if pair.name == name]
    if not named:
        raise InputError(f"{output / 'pairs.json'} has no pair {name!r}")
    outcome = _maker(output)(item_of(named[0], output))
    _log(outcome, output)
    return [outcome.problem] if outcome.problem else []
