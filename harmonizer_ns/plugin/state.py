# SPDX-License-Identifier: Apache-2.0
"""An exact resume needs what nerfstudio's checkpoints leave out: it is collected and put back here."""

from __future__ import annotations

import random
from typing import Any

import torch
from nerfstudio.data.datamanagers.base_datamanager import DataManager
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModel
from nerfstudio.models.splatfacto import SplatfactoModel

from harmonizer_ns.devices import on_device
from harmonizer_ns.random_state import NUMPY_SCALARS, python_state

COUNTERS = ("train_count", "eval_count", "train_unseen_cameras", "eval_unseen_cameras")
"""Positions of nerfstudio's data managers: plain ints and lists of ints."""
SAMPLER_COUNTERS = ("_step", "_steps_since_update")
"""Position of nerfacto's proposal sampler in its update schedule."""


def allow_numpy_scalars() -> None:
    """Let ``torch.load(weights_only=True)`` read the numpy scalars of nerfstudio's scheduler states.

    Without this nerfstudio cannot read its own checkpoints on torch >= 2.6.
    """
    torch.serialization.add_safe_globals(NUMPY_SCALARS)


def datamanager_state(datamanager: DataManager) -> dict[str, Any]:
    """What says which photos and rays come next."""
    state = {name: getattr(datamanager, name) for name in COUNTERS if hasattr(datamanager, name)}
    generator = getattr(datamanager, "random_generator", None)
    if isinstance(generator, random.Random):
        state["random_generator"] = generator.getstate()
    return state


def set_datamanager_state(datamanager: DataManager, state: dict[str, Any]) -> None:
    """Undo `datamanager_state`; what this kind of manager does not have is left out."""
    for name in COUNTERS:
        if name in state and hasattr(datamanager, name):
            setattr(datamanager, name, state[name])
    generator = getattr(datamanager, "random_generator", None)
    if "random_generator" in state and isinstance(generator, random.Random):
        generator.setstate(python_state(state["random_generator"]))


def model_state(model: Model) -> dict[str, Any]:
    """What a model counts besides its parameters: densification statistics, or the proposal sampler's position."""
    if isinstance(model, SplatfactoModel):
        return {"strategy": dict(model.strategy_state)}
    sampler = getattr(model, "proposal_sampler", None)
    return {} if sampler is None else {"sampler": {name: getattr(sampler, name) for name in SAMPLER_COUNTERS}}


def anneal(model: Model, step: int) -> None:
    """Anneal nerfacto's proposal weights as at a step of its training: checkpoints say the step alone."""
    if isinstance(model, NerfactoModel):
        run_callbacks(callbacks_of(model), step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)


def callbacks_of(model: Model) -> list[TrainingCallback]:
    """What a model does beside the steps of its training; only for models that ask for nothing of a trainer."""
    return model.get_training_callbacks(TrainingCallbackAttributes(None, None, None, None))


def run_callbacks(callbacks: list[TrainingCallback], step: int, location: TrainingCallbackLocation) -> None:
    """Run those that belong before or after a step."""
    for callback in callbacks:
        callback.run_callback_at_location(step, location)


def set_model_state(model: Model, state: dict[str, Any]) -> None:
    """Undo `model_state`."""
    if "strategy" in state and isinstance(model, SplatfactoModel):
        model.strategy_state.update(on_device(state["strategy"], model.device))
    for name, value in state.get("sampler", {}).items():
        setattr(model.proposal_sampler, name, value)
