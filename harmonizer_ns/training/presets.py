# SPDX-License-Identifier: Apache-2.0
"""This table holds the presets of ``harmonizer train``. Every value can be changed on the command line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import tyro

from harmonizer_ns.enhancers.lora import COSMOS, UNET, VAE_DECODER
from harmonizer_ns.training.builtin.config import BuiltinConfig
from harmonizer_ns.training.config import (
    DataConfig,
    LossConfig,
    OneStepConfig,
    OptimizerConfig,
    PartConfig,
    SavingConfig,
    ScheduleConfig,
    TemporalConfig,
    TrainingConfig,
)

_FROZEN = PartConfig("frozen")
_GIVEN: dict[str, Any] = {"pairs": tyro.MISSING, "output": tyro.MISSING}  # on the command line


class Preset(NamedTuple):
    """Is one way to train.

    Args:
        description: for ``--help``.
        config: without pairs files and output folder.
        details: more of it for the preset's own ``--help``.
    """

    description: str
    config: TrainingConfig
    details: str = ""


_DIFIX = OneStepConfig(
    **_GIVEN,
    family="difix",
    model="stabilityai/sd-turbo",
    backbone=PartConfig("full", targets=UNET),
    vae=PartConfig("lora", rank=4, targets=VAE_DECODER),
    data=DataConfig(height=576, width=1024, batch=1, accumulation=4, references=1),
    optimizer=OptimizerConfig(learning_rate=2e-5, clip=1.0, gradient_checkpointing=True),
    schedule=ScheduleConfig(max_steps=10_000, warm_up=500, decay="constant"),
    loss=LossConfig(l2=1.0, lpips=1.0, gram=0.5, gram_after=2000),
)
_FIXER = replace(
    _DIFIX,
    family="cosmos",
    model="nvidia/Fixer",
    backbone=PartConfig("full", targets=COSMOS),
    vae=_FROZEN,
    data=replace(_DIFIX.data, references=0),
    loss=LossConfig(l2=1.0, patches=1.0),
)
_HARMONIZER = replace(
    _FIXER,
    model="nvidia/Harmonizer",
    loss=replace(_FIXER.loss, temporal=1.0),
    temporal=TemporalConfig(context=4, start=10_000),
    schedule=replace(_FIXER.schedule, max_steps=14_000),
)
_HARMONIZER_PUBLISHED = replace(
    _FIXER,
    model="nvidia/Harmonizer",
    data=replace(_FIXER.data, accumulation=8, fixing=3.0),  # of 8 GPUs, each with one pair at a time
    loss=LossConfig(l2=1.0, lpips=0.3),
)
_DETAIL = replace(
    _DIFIX,
    timestep=999,
    backbone=PartConfig("lora", rank=16, targets=UNET),
    vae=PartConfig("lora", rank=8, targets=VAE_DECODER),
    skip_dropout=0.3,
    data=replace(_DIFIX.data, height=512, width=512, references=0),
    optimizer=replace(_DIFIX.optimizer, learning_rate=5e-5),
    schedule=ScheduleConfig(max_steps=10_000, warm_up=500, decay="linear"),
    loss=LossConfig(l1=0.5, lpips=1.0, gram=0.07),
)
_TEMPORAL_SD_TURBO = replace(
    _DIFIX,
    temporal=TemporalConfig(context=4),
    data=replace(_DIFIX.data, references=0),
    loss=replace(_DIFIX.loss, temporal=1.0, preserve=1.0),
)
_BUILTIN = BuiltinConfig(
    **_GIVEN,
    model="new",
    data=DataConfig(height=96, width=96, zoom=1.0, batch=12, references=3, workers=0, validation_pairs=48),
    optimizer=OptimizerConfig(learning_rate=2e-3, betas=(0.9, 0.98), weight_decay=1e-4, average=0.998),
    schedule=ScheduleConfig(max_steps=5000, warm_up=100, decay="cosine", floor=0.01),
    saving=SavingConfig(every=500, validate_every=500, log_every=50),
)

_HOW = """Pairs come from "harmonizer synthesize": photos, and the neighbouring frame of a clip, are warped into each
image as the enhancer warps them, and random crops are learned from. Scenes of --data.held-out (or the test split) are
validated on. OUTPUT/enhancer receives the weights that validated best, calibrated on these scenes, with a model card
(README.md), all figures (training.json) and curves; every --enhancer option takes that folder. A run that was stopped
goes on with the same command and --resume. On one CPU core a step of 12 crops takes about half a second.

examples:
  harmonizer scenes procedural --output scenes --count 23 --width 240 --height 135
  harmonizer synthesize builtin-sparse --scenes scenes/* --output pairs
  harmonizer train builtin --pairs pairs/pairs.json --output run --data.held-out scene_0001 scene_0005 scene_0008
  harmonizer train builtin --pairs mine/pairs.json --output tuned --model run/enhancer --schedule.max-steps 1000
  harmonizer train builtin --pairs mine/pairs.json --output tuned --model builtin   # from the shipped weights
  ns-train harmonize --data DATA --pipeline.enhancer run/enhancer"""

_TABLE = {
    "difix": Preset("Difix: SD-Turbo with reference photos; UNet in full, LoRA on the VAE decoder", _DIFIX),
    "fixer": Preset("Fixer: Cosmos 0.6B on single frames; VAE frozen", _FIXER),
    "harmonizer": Preset("Harmonizer: Cosmos 0.6B, then with its own last 4 outputs as context", _HARMONIZER),
    "harmonizer-published": Preset(
        "Harmonizer as its repository trains it: no context, L2 and LPIPS, artifacts three times", _HARMONIZER_PUBLISHED
    ),
    "detail-restoration": Preset("SD-Turbo with LoRA everywhere (18.5M parameters), for damaged detail", _DETAIL),
    "temporal-sd-turbo": Preset("SD-Turbo with its own last 4 outputs as context", _TEMPORAL_SD_TURBO),
    "builtin": Preset(
        "the small network that chooses among warped photos; pairs need depth and cameras", _BUILTIN, _HOW
    ),
}

PRESETS: dict[str, Preset] = {
    name: preset._replace(config=replace(preset.config, preset=name)) for name, preset in _TABLE.items()
}
"""Name -> preset."""
