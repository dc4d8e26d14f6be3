# SPDX-License-Identifier: Apache-2.0
"""Dataclasses are built from plain data (YAML, JSON), strictly: unknown keys and wrong types are refused by name."""

from __future__ import annotations

import dataclasses
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from harmonizer_ns.errors import InputError, suggestion


def build(kind: type, values: Any, where: str) -> Any:
    """Build an instance of the dataclass ``kind``.

    Args:
        kind: its fields are numbers, text, tuples, dicts, literals, unions and dataclasses.
        values: a mapping of its fields; lists stand for tuples, whole numbers for floats.
        where: begins every message.

    Raises:
        InputError: naming what is unknown, or of a wrong type or range.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where} is {values!r}, expected a mapping")
    hints = get_type_hints(kind)
    for unknown in sorted(set(map(str, values)) - set(hints)):
        raise InputError(f"{where}: there is no {unknown!r}; {suggestion(unknown, hints, 'the names')}")
    checked = {key: _value(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    try:
        return kind(**checked)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin, kinds = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, where)
    if origin in (Union, UnionType):
        return _first_fit(kinds, value, where)
    if origin is Literal and value in kinds:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) == len(value):
            return tuple(_value(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {str(key): _value(kinds[1], item, where) for key, item in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    if origin is Literal and isinstance(value, str):
        raise InputError(f"{where} is {value!r}; {suggestion(value, kinds, 'the choices')}")
    raise InputError(f"{where} is {value!r}, expected {_text(hint)}")


def _first_fit(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    problems = []
    for kind in kinds:
        try:
            return _value(kind, value, where)
        except InputError as error:  # noqa: PERF203 (the next kind may fit)
            problems.append(error)
    raise problems[0]


def _text(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint).replace("typing.", "")
