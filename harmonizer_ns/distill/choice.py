# SPDX-License-Identifier: Apache-2.0
"""Where a run wants to look, as chosen by its settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from torch import Tensor

from harmonizer_ns.distill.targets import extrapolate, keep_overlapping, load_camera_path
from harmonizer_ns.errors import InputError
from harmonizer_ns.spread import evenly_spread
from harmonizer_ns.types import Cameras

TargetChoice = Literal["auto", "path", "eval"]


def choose_targets(
    choice: TargetChoice,
    path: Path | None,
    count: int,
    extrapolation: float,
    train: list[Cameras],
    points: Tensor | None,
    held_out: list[Cameras],
    say: Callable[[str], None] = print,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> tuple[list[Cameras], str]:
    """The target cameras and one line that says where they come from.

    Args:
        choice: ``auto`` extrapolates around the capture, ``path`` reads a camera path, ``eval`` takes the poses (never
            the photos) of the held-out views.
        path: the camera path file, for ``path``.
        count: at most so many targets.
        extrapolation: size of the move for ``auto``, as a fraction of the capture's extent.
        train: training cameras.
        points: seed points, or None.
        held_out: poses of the held-out views.
        say: told about targets that are dropped.
        transform: brings a camera path's OpenGL poses into the frame that is trained in.

    Raises:
        InputError: when the choice cannot be served, or no target sees what was captured.
    """
    try:
        targets, origin = _chosen(choice, path, count, extrapolation, train, points, held_out, transform)
        return _with_overlap(evenly_spread(targets, count, ends=True), train, points, say), origin
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error


def _chosen(
    choice: TargetChoice,
    path: Path | None,
    count: int,
    extrapolation: float,
    train: list[Cameras],
    points: Tensor | None,
    held_out: list[Cameras],
    transform: Callable[[Tensor], Tensor] | None,
) -> tuple[list[Cameras], str]:
    if choice == "path":
        if path is None:
            raise InputError("targets 'path' needs a camera path (camera_path.json)")
        return load_camera_path(path, transform), f"camera path {path}"
    if choice == "eval":
        if not held_out:
            raise InputError("targets 'eval' needs held-out photos, and this capture has none")
        return held_out, "evaluation poses (the papers' protocol)"
    targets = extrapolate(train, points, count, extrapolation)
    return targets, f"extrapolated around the capture by {extrapolation:g} of its extent"


def _with_overlap(
    targets: list[Cameras], train: list[Cameras], points: Tensor | None, say: Callable[[str], None]
) -> list[Cameras]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept = keep_overlapping(targets, train, points)
    for warning in caught:
        say(str(warning.message))
    return kept
