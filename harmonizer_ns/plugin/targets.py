# SPDX-License-Identifier: Apache-2.0
"""Where a run wants to look, as chosen by its settings."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

from nerfstudio.data.datamanagers.base_datamanager import DataManager
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from harmonizer_ns.distill.targets import extrapolate, keep_overlapping, load_camera_path, spread
from harmonizer_ns.errors import InputError
from harmonizer_ns.plugin.cameras import from_nerfstudio
from harmonizer_ns.types import Cameras

TargetChoice = Literal["auto", "path", "eval"]


def choose_targets(
    choice: TargetChoice,
    path: Path | None,
    count: int,
    extrapolation: float,
    train: list[Cameras],
    points: Tensor | None,
    datamanager: DataManager,
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
        datamanager: gives the held-out poses.

    Raises:
        InputError: when the choice cannot be served, or no target sees what was captured.
    """
    try:
        if choice == "path":
            if path is None:
                raise InputError("--pipeline.targets path needs --pipeline.camera-path FILE")
            targets, origin = load_camera_path(path), f"camera path {path}"
        elif choice == "eval":
            targets, origin = _evaluation_poses(datamanager), "evaluation poses (the papers' protocol)"
        else:
            targets = extrapolate(train, points, count, extrapolation)
            origin = f"extrapolated around the capture by {extrapolation:g} of its extent"
        return _with_overlap(spread(targets, count), train, points), origin
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error


def _evaluation_poses(datamanager: DataManager) -> list[Cameras]:
    dataset = datamanager.eval_dataset
    if not dataset:
        raise InputError("--pipeline.targets eval needs held-out photos, and this capture has none")
    return [from_nerfstudio(dataset.cameras[i : i + 1]) for i in range(len(dataset))]


def _with_overlap(targets: list[Cameras], train: list[Cameras], points: Tensor | None) -> list[Cameras]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept = keep_overlapping(targets, train, points)
    for warning in caught:
        CONSOLE.log(f"[yellow]{warning.message}")
    return kept
