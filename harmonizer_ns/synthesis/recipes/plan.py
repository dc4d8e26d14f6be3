# SPDX-License-Identifier: Apache-2.0
"""The task list of a recipe: one item is one clip. Everything follows from the recipe and the files' names."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonizer_ns.errors import InputError
from harmonizer_ns.media import image_files
from harmonizer_ns.synthesis.recipes.recipe import Recipe, StreamRecipe

_HEAD = 65536


@dataclass(frozen=True)
class Scene:
    """Frames that belong together, in order.

    Args:
        name: of the scene.
        files: relative to the recipe's folder where they were given so.
    """

    name: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """One clip to be made; plain data, which is also its provenance.

    Args:
        recipe, stream, kind, scene: where it belongs.
        seed: of all that is random in it.
        width: of its frames, or None.
        settings: of the stream, as plain data.
        files: its frames, relative to the recipe's folder.
        index: its number in the stream.
    """

    recipe: str
    stream: str
    kind: str
    scene: str
    seed: int
    width: int | None
    settings: dict[str, Any]
    files: tuple[str, ...]
    index: int

    @property
    def name(self) -> str:
        """Of its folder and clip."""
        return f"{self.stream}/{self.index:05d}"

    @property
    def digest(self) -> str:
        """Equal for items that make equal pairs."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    """What is to be made, what cannot be, and which scenes are kept for testing."""

    items: tuple[Item, ...]
    problems: tuple[str, ...]
    test_scenes: frozenset[str]


def make_plan(recipe: Recipe) -> Plan:
    """List the items of every stream; a scene that cannot be used is one problem, and the other scenes go on."""
    problems: list[str] = []
    items, scenes = [], {}
    for stream in recipe.streams:
        found = _scenes(recipe.root, stream, problems)
        scenes.update({scene.files: scene for scene in found})
        items += _items(recipe, stream, found, problems)
    return Plan(tuple(items), tuple(dict.fromkeys(problems)), held_out_scenes(recipe, list(scenes.values())))


def _scenes(root: Path, stream: StreamRecipe, problems: list[str]) -> list[Scene]:
    scenes = []
    for folder in dict.fromkeys(stream.scenes):
        inner = f"{folder}/images" if (root / folder / "images").is_dir() else folder
        scenes.append(Scene(folder, _listed(root, inner, problems)))
    for folder in dict.fromkeys(stream.photos):
        inner = f"{folder}/images" if (root / folder / "images").is_dir() else folder
        scenes += [Scene(file, (file,)) for file in _listed(root, inner, problems)]
    return [scene for scene in scenes if scene.files]


def _listed(root: Path, folder: str, problems: list[str]) -> tuple[str, ...]:
    try:
        return tuple(f"{folder}/{path.name}" for path in image_files(root / folder))
    except InputError as error:
        problems.append(str(error))
        return ()


def _items(recipe: Recipe, stream: StreamRecipe, scenes: list[Scene], problems: list[str]) -> list[Item]:
    """Item ``i`` does not depend on the count: a longer recipe extends a shorter one."""
    order = sorted(scenes, key=lambda scene: _score(recipe.seed, stream.name, scene.name))
    items = []
    for index in range(stream.count if order else 0):
        scene = order[index % len(order)]
        length = 1 if scene.name == scene.files[0] else stream.clip
        if len(scene.files) < length:
            problems.append(f"{scene.name} has {len(scene.files)} images, {stream.name} makes clips of {length}")
            continue
        seed = int(_score(recipe.seed, stream.name, index)[:12], 16)
        start = random.Random(seed).randrange(len(scene.files) - length + 1)
        settings = dataclasses.asdict(stream.settings)
        files = scene.files[start : start + length]
        items.append(
            Item(recipe.name, stream.name, stream.kind, scene.name, seed, recipe.width, settings, files, index)
        )
    return items


def held_out_scenes(recipe: Recipe, scenes: list[Scene]) -> frozenset[str]:
    """Names of the scenes kept for testing; scenes that share a file, under whatever name, go the same way."""
    groups = _groups(recipe.root, scenes)
    order = sorted(groups, key=lambda group: _score(recipe.seed, "split", min(group)))
    wanted = recipe.test_fraction * len(order)
    count = min(len(order) - 1, max(1, round(wanted))) if wanted and len(order) > 1 else 0
    return frozenset(name for group in order[:count] for name in group)


def _groups(root: Path, scenes: list[Scene]) -> list[set[str]]:
    """Scene names, those joined that share any content."""
    groups: list[tuple[set[str], set[str]]] = []
    for scene in scenes:
        names, contents = {scene.name}, {_content(root / file) for file in scene.files}
        for group in [group for group in groups if group[0] & names or group[1] & contents]:
            names, contents = names | group[0], contents | group[1]
            groups.remove(group)
        groups.append((names, contents))
    return [names for names, _ in groups]


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return f"{path.stat().st_size}-{hashlib.sha256(file.read(_HEAD)).hexdigest()}"


def _score(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()
