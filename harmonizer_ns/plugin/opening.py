# SPDX-License-Identifier: Apache-2.0
"""Open a finished nerfstudio run for looking at it, or for comparing it with its held-out photos."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import Pipeline
from rich.prompt import Confirm

from harmonizer_ns.distill.repairs import Repairs
from harmonizer_ns.distill.settings import DistillSettings
from harmonizer_ns.errors import InputError, first_line
from harmonizer_ns.plugin.configs import read_config
from harmonizer_ns.plugin.photos import DatasetPhotos, TrainingPhotos, as_capture, one_by_one
from harmonizer_ns.plugin.renderer import ModelRenderer
from harmonizer_ns.plugin.state import anneal
from harmonizer_ns.plugin.trainer import newest_checkpoint, read_checkpoint
from harmonizer_ns.splats.held_out import SparseFit
from harmonizer_ns.viewing.server import ViewedScene


def open_run(config: Path, device: str, *, trust: bool = False) -> ViewedScene:
    """Load the last checkpoint of a run; no code that its files name is run.

    Args:
        config: the run's config.yml.
        device: where to render.
        trust: build whatever that file names, see `read_config`.

    Raises:
        InputError: when the file is missing or refused, or the run has no checkpoint or does not fit it.
    """
    pipeline = _opened(read_config(config, trust=trust), config, device)
    photos = TrainingPhotos(pipeline.datamanager)
    repairs = Repairs(DistillSettings(), photos, ModelRenderer(pipeline.model))
    seeds = None if photos.points is None or photos.colors is None else (photos.points.float(), photos.colors)
    places = one_by_one(pipeline.datamanager.train_dataset.cameras)  # type: ignore[union-attr]
    return ViewedScene(repairs.renderer, places[0], repairs.photos, places, seeds)


def open_held_out(config: Path, device: str, *, trust: bool = False) -> tuple[SparseFit, str | None]:
    """Load the last checkpoint of a run, with its photos: those that it learned from, and those that it did not.

    Args:
        config: the run's config.yml.
        device: where to render.
        trust: build whatever that file names, see `read_config`.

    Returns:
        the model with its photos, and the enhancer that the run names; None for a plain method.

    Raises:
        InputError: as `open_run`, and when the run learned from all photos.
    """
    settings = read_config(config, trust=trust)
    pipeline = _opened(settings, config, device)
    photos = TrainingPhotos(pipeline.datamanager)
    if not photos.held_out_places:
        raise InputError(f"the run of {config} learned from all of its photos: none is held out to compare it with")
    name, others = str(getattr(settings, "experiment_name", "")), DatasetPhotos(pipeline.datamanager, "eval")
    capture = as_capture(name or config.parent.name, photos, others, photos.held_out_places)
    return SparseFit(capture, ModelRenderer(pipeline.model)), getattr(settings.pipeline, "enhancer", None)


def _opened(settings: TrainerConfig, config: Path, device: str) -> Pipeline:
    """The pipeline of a run, which does not enhance by itself.

    Raises:
        InputError: when it has no checkpoint, or does not fit it.
    """
    try:
        pipeline = _load(settings, device)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever a damaged file brings nerfstudio to
        what = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"the run of {config} cannot be opened: {what}") from error
    if hasattr(pipeline.model, "enhance_view"):
        pipeline.model.enhance_view = None  # type: ignore[assignment]
    return pipeline


def _load(settings: TrainerConfig, device: str) -> Pipeline:
    """Build a run's pipeline as nerfstudio's ``eval_setup`` does, with its last checkpoint in it."""
    settings.pipeline.datamanager._target = all_methods[settings.method_name].pipeline.datamanager._target
    state = read_checkpoint(newest_checkpoint(settings.get_checkpoint_dir()))
    with _nothing_answered():
        pipeline = settings.pipeline.setup(device=device, test_mode="test")
    pipeline.eval()
    pipeline.load_pipeline(state["pipeline"], state["step"])
    anneal(pipeline.model, state["step"])
    return pipeline


@contextmanager
def _nothing_answered() -> Iterator[None]:
    """Questions are answered with no: upstream asks whether it may write photos, with a shell, into a capture."""
    original = Confirm.ask
    Confirm.ask = lambda *_, **__: False  # type: ignore[method-assign]
    try:
        yield
    finally:
        Confirm.ask = original  # type: ignore[method-assign]
