# SPDX-License-Identifier: Apache-2.0
"""A plan lists the items of a recipe. Everything in it follows from the recipe and from what its files hold."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice, repeat
from pathlib import Path
from typing import Any

from harmonizer_ns.errors import InputError
from harmonizer_ns.synthesis.recipes.recipe import Recipe, StreamRecipe
from harmonizer_ns.synthesis.recipes.sources import (
    Contents,
    SourceScene,
    capture_scene,
    folder_scene,
    named_apart,
    photo_scenes,
    source_files,
)
from harmonizer_ns.synthesis.streams.table import STREAMS


@dataclass(frozen=True)
class PlannedItem:
    """An item is one call of a stream; plain data, which is also the provenance of its pairs.

    Args:
        name: of its folder below the output folder, ``STREAM/PART``.
        recipe, stream, kind, scene: where it belongs.
        seed: of all that is random in it.
        width: of photos, or None.
        settings: of the stream, as plain data.
        folder: of the scene, "" where there is none.
        files: the images of a clip, relative to the folder; empty for captures, which are taken whole.
        content: digest of all source files, "" where there are none.
    """

    name: str
    recipe: str
    stream: str
    kind: str
    scene: str
    seed: int
    width: int | None
    settings: dict[str, Any]
    folder: str = ""
    files: tuple[str, ...] = ()
    content: str = ""

    @property
    def digest(self) -> str:
        """It is equal for items that make equal pairs, wherever the scene is and whatever the recipe is called."""
        plain = {**dataclasses.asdict(self), "folder": "", "recipe": ""}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


@dataclass
class Plan:
    """A plan says what is to be made, what cannot be, what is worth knowing, and which scenes are kept for testing."""

    recipe: Recipe
    items: list[PlannedItem] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    test_scenes: frozenset[str] = frozenset()

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Turn an `InputError` of the block into one more problem."""
        try:
            yield
        except InputError as error:
            self.problems.append(str(error))


def make_plan(recipe: Recipe) -> Plan:
    """List the items of every stream; a scene that cannot be used is one problem, and the others go on."""
    plan, contents = Plan(recipe), Contents()
    scenes = _all_scenes(plan, contents)
    used: dict[str, SourceScene] = {}
    for stream in recipe.streams:
        if STREAMS[stream.kind].source == "nothing":
            plan.items += [_made_up(recipe, stream, number) for number in range(stream.count)]
            continue
        usable = [scene for scene in scenes[stream.name] if _has_room(scene, stream, plan)]
        items = _dealt(recipe, stream, usable, contents, plan)
        used.update({scene.name: scene for scene in usable if scene.name in {item.scene for item in items}})
        plan.items += items
    plan.test_scenes = _test_scenes(plan, list(used.values()), contents)
    for listed in (plan.problems, plan.notes):
        listed[:] = dict.fromkeys(listed)
    return plan


def _all_scenes(plan: Plan, contents: Contents) -> dict[str, list[SourceScene]]:
    """Find the scenes of each stream; one folder or photo has one name in all of them."""
    found = {stream.name: _scenes(stream, plan) for stream in plan.recipe.streams}
    places = {}
    for scene in [scene for some in found.values() for scene in some]:
        with plan.noting():
            contents.of_all(scene.folder, list(scene.files))
            places[scene.place] = scene
    names = {place: scene.name for place, scene in zip(places, named_apart(list(places.values())), strict=True)}
    return {
        stream: [dataclasses.replace(scene, name=names[scene.place]) for scene in some if scene.place in names]
        for stream, some in found.items()
    }


def _scenes(stream: StreamRecipe, plan: Plan) -> list[SourceScene]:
    capture = STREAMS[stream.kind].source == "capture"
    found: list[SourceScene] = []
    for folder in dict.fromkeys(path.resolve() for path in stream.scenes):
        with plan.noting():
            scene, note = (capture_scene(folder), "") if capture else folder_scene(folder)
            found.append(scene)
            plan.notes += [note] if note else []
    for folder in dict.fromkeys(path.resolve() for path in stream.photos):
        with plan.noting():
            found += photo_scenes(folder)
    return found


def _has_room(scene: SourceScene, stream: StreamRecipe, plan: Plan) -> bool:
    room = STREAMS[stream.kind].source == "capture" or bool(_starts(scene, stream.clip))
    if not room:
        plan.problems.append(
            f"{scene.folder} has {len(scene.files)} images, {stream.name} makes clips of {stream.clip}: "
            "leave it out, or make its clips shorter"
        )
    return room


def _starts(scene: SourceScene, clip: int) -> list[int]:
    """Find where clips may begin: their frames are of one folder, which is one camera of a rig."""
    length = 1 if scene.photo else clip
    folders = [Path(file).parent for file in scene.files]
    return [i for i in range(len(folders) - length + 1) if folders[i] == folders[i + length - 1]]


def _dealt(
    recipe: Recipe, stream: StreamRecipe, scenes: list[SourceScene], contents: Contents, plan: Plan
) -> list[PlannedItem]:
    """Deal the items of a stream to its scenes; each depends on its scene and its number there alone."""
    order = sorted(scenes, key=lambda scene: _score(recipe.seed, stream.name, scene.name))
    items = []
    for scene, number in islice(_turns(order), stream.count) if stream.count else zip(order, repeat(0)):
        with plan.noting():
            items.append(_item(recipe, stream, scene, number, contents))
    return items


def _turns(scenes: list[SourceScene]) -> Iterator[tuple[SourceScene, int]]:
    """Take scenes and photos by turns, with how often each came before: many photos do not crowd out few scenes."""
    sorts = [[scene for scene in scenes if scene.photo == photo] for photo in (False, True)]
    for turn in count() if scenes else ():
        yield from ((sort[turn % len(sort)], turn // len(sort)) for sort in sorts if sort)


def _item(recipe: Recipe, stream: StreamRecipe, scene: SourceScene, number: int, contents: Contents) -> PlannedItem:
    seed = _seed(recipe, stream, f"{scene.name}/{number}")
    settings, source = _plain(stream.settings), STREAMS[stream.kind].source
    files: tuple[str, ...] = ()
    if source == "clip":
        start = random.Random(seed).choice(_starts(scene, stream.clip))
        files = scene.files[start : start + (1 if scene.photo else stream.clip)]
    content = contents.of_all(scene.folder, source_files(source, scene.folder, files, settings))
    name = f"{stream.name}/{scene.name}_{number:02d}"
    origin = (recipe.name, stream.name, stream.kind, scene.name)
    return PlannedItem(name, *origin, seed, recipe.width, settings, str(scene.folder), files, content)


def _made_up(recipe: Recipe, stream: StreamRecipe, number: int) -> PlannedItem:
    """Make an item that is a scene of its own."""
    name = f"{stream.name}/{number:05d}"
    seed = _seed(recipe, stream, str(number))
    return PlannedItem(name, recipe.name, stream.name, stream.kind, name, seed, None, _plain(stream.settings))


def _plain(settings: Any) -> dict[str, Any]:
    """Turn settings into plain data as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def _seed(recipe: Recipe, stream: StreamRecipe, part: str) -> int:
    return int(_score(recipe.seed, stream.name, part)[:12], 16)


def _score(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def _test_scenes(plan: Plan, scenes: list[SourceScene], contents: Contents) -> frozenset[str]:
    """Captures, photos and the made-up scenes of each stream are split apart, so that each sort is in both splits."""
    groups = _same_photos(scenes, contents)
    photos = {scene.name for scene in scenes if scene.photo}
    sorts = [[group for group in groups if not group <= photos], [group for group in groups if group <= photos]]
    for stream in plan.recipe.streams:
        own = [item.scene for item in plan.items if item.stream == stream.name and not item.folder]
        sorts.append([frozenset([scene]) for scene in own])
    kept = [_held_out(sort, plan.recipe.test_fraction, f"{plan.recipe.seed}/split") for sort in sorts]
    return frozenset().union(*kept)


def _same_photos(scenes: list[SourceScene], contents: Contents) -> list[frozenset[str]]:
    """Group the names of scenes that share an image byte for byte, under whatever file name."""
    groups: list[tuple[frozenset[str], frozenset[str]]] = []
    for scene in scenes:
        names = frozenset([scene.name])
        images = frozenset(contents.of(scene.folder / file) for file in scene.files)
        for group in [group for group in groups if group[1] & images]:
            names, images = names | group[0], images | group[1]
            groups.remove(group)
        groups.append((names, images))
    return [names for names, _ in groups]


def _held_out(groups: list[frozenset[str]], fraction: float, seed: str) -> frozenset[str]:
    """Keep the names of a fraction of the groups; of two groups at least one, and never all."""
    order = sorted(groups, key=lambda group: _score(seed, min(group)))
    wanted = round(fraction * len(order))
    count = min(len(order) - 1, max(1, wanted)) if fraction and order else 0
    return frozenset().union(*order[:count])
