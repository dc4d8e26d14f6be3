# SPDX-License-Identifier: Apache-2.0
"""Open a finished nerfstudio run for looking at it."""

from __future__ import annotations

from pathlib import Path

from nerfstudio.utils.eval_utils import eval_setup

from harmonizer_ns.distill.repairs import Repairs
from harmonizer_ns.distill.settings import DistillSettings
from harmonizer_ns.errors import InputError
from harmonizer_ns.plugin.cameras import from_nerfstudio
from harmonizer_ns.plugin.photos import TrainingPhotos
from harmonizer_ns.plugin.renderer import ModelRenderer
from harmonizer_ns.plugin.state import allow_numpy_scalars
from harmonizer_ns.viewing.server import ViewedScene


def open_run(config: Path) -> ViewedScene:
    """Load the last checkpoint of a run.

    nerfstudio's config.yml names classes to be built, so only open runs of people you trust.

    Raises:
        InputError: when the file is missing or the run has no checkpoint.
    """
    if not config.is_file():
        raise InputError(f"there is no file {config}")
    allow_numpy_scalars()
    try:
        _, pipeline, _, _ = eval_setup(config, test_mode="test")
    except (FileNotFoundError, SystemExit) as error:
        raise InputError(f"the run of {config} cannot be opened: {error}") from error
    model = pipeline.model
    if hasattr(model, "enhance_view"):
        model.enhance_view = None  # type: ignore[assignment]
    repairs = Repairs(DistillSettings(), TrainingPhotos(pipeline.datamanager), ModelRenderer(model))
    start = from_nerfstudio(pipeline.datamanager.train_dataset.cameras[0:1])  # type: ignore[union-attr]
    return ViewedScene(repairs.renderer, start, repairs.photos)
