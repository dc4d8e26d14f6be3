# SPDX-License-Identifier: Apache-2.0
"""Recipes: YAML files that say which streams make how many pairs, of which scenes.

    name: mix
    seed: 0
    width: 480
    test_fraction: 0.2
    streams:
      - {kind: isp, name: isp, count: 20, scenes: [data/cafe], settings: {exposure: [-1, 1]}}
      - {kind: regions, name: detail, count: 24, photos: [data/kodak24]}

Each folder of ``scenes`` is one scene, and gives clips of neighbouring frames; each image below a folder of ``photos``
is a scene of its own. Paths are relative to the recipe's folder.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from harmonizer_ns.errors import InputError
from harmonizer_ns.synthesis.streams.table import STREAMS, Settings


@dataclass(frozen=True)
class StreamRecipe:
    """One stream of a recipe.

    Args:
        kind: a name of `STREAMS`.
        name: of its pairs; one recipe has every name once.
        count: clips and photos to be made.
        scenes: folders that are one scene each (an ``images`` folder inside is found).
        photos: folders whose images are a scene each.
        clip: neighbouring frames of a clip; photos are clips of one.
        settings: of the stream, its own dataclass.
    """

    kind: str
    name: str
    count: int
    scenes: tuple[str, ...]
    photos: tuple[str, ...]
    clip: int
    settings: Settings


@dataclass(frozen=True)
class Recipe:
    """What a recipe file says; ``test_fraction`` of the scenes go to the test split."""

    name: str
    root: Path
    seed: int = 0
    width: int | None = None
    test_fraction: float = 0.2
    streams: tuple[StreamRecipe, ...] = field(default=())


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        InputError: naming the entry that is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the recipe {path}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("streams"), list) or not content["streams"]:
        raise InputError(f"{path} is no recipe: it should hold a list of streams")
    streams = tuple(_stream(entry, f"{path}: stream {i + 1}") for i, entry in enumerate(content["streams"]))
    names = [stream.name for stream in streams]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: several streams are named {twice[0]!r}; give each a name")
    defaults = {"name": path.stem, "root": path.resolve().parent}
    plain = {key: value for key, value in content.items() if key not in ("streams", "root")}
    recipe = build(Recipe, {**defaults, **plain}, str(path))
    if not 0 <= recipe.test_fraction < 1 or (recipe.width is not None and recipe.width < 16):
        raise InputError(f"{path}: need 0 <= test_fraction < 1 and width >= 16")
    return dataclasses.replace(recipe, streams=streams)


def _stream(entry: Any, where: str) -> StreamRecipe:
    if not isinstance(entry, dict) or entry.get("kind") not in STREAMS:
        raise InputError(f"{where} is {entry!r}: its kind should be one of {', '.join(STREAMS)}")
    kind = entry["kind"]
    settings = settings_of(kind, entry.get("settings") or {}, where)
    values = {"name": kind, "count": 20, "scenes": [], "photos": [], "clip": 5, **entry, "settings": settings}
    stream = build(StreamRecipe, values, where)
    if stream.count < 1 or stream.clip < 1 or not (stream.scenes or stream.photos):
        raise InputError(f"{where} needs scenes or photos, and count and clip of at least 1")
    if not stream.name.replace("-", "").replace("_", "").isalnum():
        raise InputError(f"{where}: the name {stream.name!r} should be letters, digits, - and _")
    return stream


def settings_of(kind: str, values: Any, where: str) -> Settings:
    """Settings of a stream from plain data.

    Raises:
        InputError: naming what is unknown or of a wrong kind or range.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: settings are {values!r}, not a mapping")
    return build(STREAMS[kind].settings, values, f"{where}: settings")


def build(kind: type, values: dict[str, Any], where: str) -> Any:
    """A dataclass from plain data, strictly: unknown keys and wrong types are refused by name."""
    hints = get_type_hints(kind)
    if unknown := sorted(set(map(str, values)) - set(hints)):
        raise InputError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(hints)}")
    checked = {key: _value(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    try:
        return kind(**checked)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if isinstance(value, list | tuple) and (kinds[-1] is Ellipsis or len(value) == len(kinds)):
            return tuple(_value(kinds[0], item, where) for item in value)
    elif get_origin(hint) is dict:
        if isinstance(value, dict):
            return {str(key): _value(get_args(hint)[1], item, where) for key, item in value.items()}
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise InputError(f"{where} is {value!r}, expected {hint}")
