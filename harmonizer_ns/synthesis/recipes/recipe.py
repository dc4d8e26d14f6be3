# SPDX-License-Identifier: Apache-2.0
"""Recipes are YAML files that say which streams make how many pairs, of which scenes.

    name: mix
    seed: 0
    width: 480
    test_fraction: 0.2
    streams:
      - {kind: isp, count: 20, clip: 5, scenes: [data/cafe], settings: {exposure: [-1, 1]}}
      - {kind: regions, name: detail, photos: [data/kodak24]}

Each folder of ``scenes`` is one scene; each image in a folder of ``photos`` is a scene of its own. Paths are relative
to the recipe's folder. Streams that name neither take those of the command line.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonizer_ns.errors import InputError, suggestion
from harmonizer_ns.files import find_shipped, read_yaml
from harmonizer_ns.strict_dataclasses import build
from harmonizer_ns.synthesis.streams.table import STREAMS

_KEYS = {
    "clip": ("kind", "name", "count", "settings", "scenes", "photos", "clip"),
    "capture": ("kind", "name", "count", "settings", "scenes"),
    "nothing": ("kind", "name", "count", "settings"),
}


@dataclass(frozen=True)
class StreamRecipe:
    """A stream of a recipe says what to make, how many, and of what.

    Args:
        kind: a name of `STREAMS`.
        name: of its pairs; one recipe has every name once.
        settings: of the stream, its own dataclass.
        count: items to be made (clips, captures worked through, or made-up scenes), dealt evenly to the scenes; 0
            makes one of each scene.
        scenes: folders that are one scene each (an ``images`` folder inside is found).
        photos: folders whose images are a scene each.
        clip: neighbouring frames that are damaged alike; photos are clips of one.
    """

    kind: str
    name: str
    settings: Any
    count: int = 0
    scenes: tuple[Path, ...] = ()
    photos: tuple[Path, ...] = ()
    clip: int = 5


@dataclass(frozen=True)
class Recipe:
    """A recipe is what its file says.

    Args:
        name: the file's stem, unless it gives another.
        seed: of all that is random.
        width: of photos in pixels; None keeps their sizes. What makes its own scenes has its own settings.
        test_fraction: of the scenes of each sort; they go to the test split.
        streams: in order.
    """

    name: str
    seed: int = 0
    width: int | None = None
    test_fraction: float = 0.2
    streams: tuple[StreamRecipe, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction should be at least 0 and below 1, got {self.test_fraction}")
        if self.width is not None and self.width < 16:
            raise ValueError(f"width should be at least 16, got {self.width}")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Args:
        path: of a YAML file, or the name of a shipped recipe.

    Raises:
        InputError: naming the entry that is wrong.
    """
    path = find_shipped(path, "recipes", ".yaml")
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("streams"), list) or not content["streams"]:
        raise InputError(f"{path} is no recipe: it should hold a list of streams")
    root = path.resolve().parent
    streams = tuple(_stream(entry, root, f"{path}: stream {i + 1}") for i, entry in enumerate(content["streams"]))
    names = [stream.name.lower() for stream in streams]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: several streams are named {twice[0]!r}; give each a name")
    return build(Recipe, {"name": path.stem, **content, "streams": streams}, str(path))


def _stream(entry: Any, root: Path, where: str) -> StreamRecipe:
    if not isinstance(entry, dict):
        raise InputError(f"{where} is {entry!r}, expected a mapping with its kind")
    kind = str(entry.get("kind"))
    if kind not in STREAMS:
        raise InputError(f"{where}: there is no kind {kind!r}; {suggestion(kind, STREAMS, 'the kinds')}")
    keys = _KEYS[STREAMS[kind].source]
    for unknown in sorted(set(map(str, entry)) - set(keys)):
        raise InputError(f"{where}: {kind} does not know {unknown!r}; {suggestion(unknown, keys, 'the keys')}")
    settings = build(STREAMS[kind].settings, entry.get("settings") or {}, f"{where}: settings")
    folders = {key: _folders(entry[key], root, f"{where}: {key}") for key in ("scenes", "photos") if key in entry}
    stream = build(StreamRecipe, {"name": kind, **entry, "settings": settings, **folders}, where)
    if stream.count < ("count" in entry or STREAMS[kind].source == "nothing") or stream.clip < 1:
        raise InputError(f"{where} needs a count and clips of at least 1, got {stream.count} and {stream.clip}")
    if not stream.name.replace("-", "").replace("_", "").isalnum():
        raise InputError(f"{where}: the name {stream.name!r} should be letters, digits, - and _")
    return stream


def _folders(values: Any, root: Path, where: str) -> tuple[Path, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{where} is {values!r}, expected a list of folders")
    return tuple(root / Path(value).expanduser() for value in values)


def with_folders(recipe: Recipe, scenes: tuple[Path, ...], photos: tuple[Path, ...]) -> Recipe:
    """Give folders to the streams that name none.

    Raises:
        InputError: when a stream has nothing to work on, or no stream takes what is given.
    """
    empty = [stream for stream in recipe.streams if not (stream.scenes or stream.photos)]
    takers = {kind: [s for s in empty if kind in _KEYS[STREAMS[s.kind].source]] for kind in ("scenes", "photos")}
    given = {"scenes": scenes, "photos": photos}
    for kind, folders in given.items():
        if folders and not takers[kind]:
            raise InputError(f"--{kind} is of no use: no stream of {recipe.name} needs {kind}")
    for stream in takers["scenes"]:
        if not (scenes or (photos and stream in takers["photos"])):
            wanted = "--scenes or --photos" if stream in takers["photos"] else "--scenes"
            raise InputError(f"{stream.name} has nothing to work on: name folders in the recipe, or give {wanted}")
    filled = [
        dataclasses.replace(stream, **{kind: given[kind] for kind in takers if stream in takers[kind]})
        for stream in recipe.streams
    ]
    return dataclasses.replace(recipe, streams=tuple(filled))
