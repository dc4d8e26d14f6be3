# SPDX-License-Identifier: Apache-2.0
"""Where a nerfstudio run wants to look."""

from __future__ import annotations

from pathlib import Path

from nerfstudio.data.datamanagers.base_datamanager import DataManager
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from harmonizer_ns.distill import choice as distill_choice
from harmonizer_ns.distill.choice import TargetChoice
from harmonizer_ns.errors import InputError
from harmonizer_ns.plugin.cameras import from_nerfstudio
from harmonizer_ns.types import Cameras


def choose_targets(
    choice: TargetChoice,
    path: Path | None,
    count: int,
    extrapolation: float,
    train: list[Cameras],
    points: Tensor | None,
    datamanager: DataManager,
) -> tuple[list[Cameras], str]:
    """As `harmonizer_ns.distill.choice.choose_targets`, with the held-out poses of a data manager.

    Raises:
        InputError: when the choice cannot be served, or no target sees what was captured.
    """
    if choice == "path" and path is None:
        raise InputError("--pipeline.targets path needs --pipeline.camera-path FILE")
    return distill_choice.choose_targets(
        choice,
        path,
        count,
        extrapolation,
        train,
        points,
        _evaluation_poses(datamanager),
        say=lambda message: CONSOLE.log(f"[yellow]{message}"),
    )


def _evaluation_poses(datamanager: DataManager) -> list[Cameras]:
    dataset = datamanager.eval_dataset
    return [from_nerfstudio(dataset.cameras[i : i + 1]) for i in range(len(dataset))] if dataset else []
