# SPDX-License-Identifier: Apache-2.0
"""Train the built-in enhancer: ``python -m harmonizer_ns.training.builtin.train --output DIR --samples DIR --pairs FILE...``.

Samples come from ``harmonizer_ns.synthesis.sparse``, pairs from ``harmonizer synthesize``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch

from harmonizer_ns.enhancers.builtin.enhancer import BuiltinEnhancer
from harmonizer_ns.errors import InputError
from harmonizer_ns.training.builtin.augment import AugmentConfig
from harmonizer_ns.training.builtin.card import CURVES, model_card
from harmonizer_ns.training.builtin.losses import LossConfig
from harmonizer_ns.training.builtin.pair_samples import load_pair_samples
from harmonizer_ns.training.builtin.sample_trainee import RUN, SampleData, SampleTrainee
from harmonizer_ns.training.builtin.samples import Sample, load_samples
from harmonizer_ns.training.builtin.validation import CONDITIONS, Figures, table, validate
from harmonizer_ns.training.config import DataConfig, OptimizerConfig, SavingConfig, TrainingConfig
from harmonizer_ns.training.journal import curves, read_log
from harmonizer_ns.training.loop import Run
from harmonizer_ns.training.rates import ScheduleConfig
from harmonizer_ns.training.setup import start_processes
from harmonizer_ns.training.sheets import save_curves


@dataclass(frozen=True)
class BuiltinTrainingConfig:
    """Training of the built-in enhancer."""

    output: Path
    """Checkpoint folder; receives the best checkpoint so far, ``training.json`` and the model card."""
    samples: Path | None = None
    """Folder of samples: ``<scene>/<recipe>_<view>.safetensors``."""
    pairs: tuple[Path, ...] = ()
    """Pairs files."""
    held_out: tuple[str, ...] = ()
    """Scenes that are only validated on. Empty: the samples whose split is not ``train``."""
    resume: bool = False
    """Continue an interrupted run from its newest checkpoint in ``output/run``."""
    initial: Path | None = None
    """Checkpoint folder to start from; None starts as the identity."""
    tolerated_loss: float = 0.1
    """How many dB the better half of the held-out pixels may lose when eagerness is calibrated after training."""
    steps: int = 5000
    """Optimizer steps."""
    batch: int = 12
    """Crops in a step."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW, after the warm-up; falls as a cosine to a hundredth."""
    warm_up: int = 100
    """Steps of linear warm-up."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    clip: float = 1.0
    """Largest norm of the gradients."""
    average: float = 0.998
    """Decay of the moving average of the weights, which is what is validated and saved."""
    validate_every: int = 500
    """Steps between validations."""
    validation_views: int = 2
    """Views of each held-out scene and recipe that are validated on during training."""
    bfloat16: bool = False
    """Compute convolutions in bfloat16."""
    device: str = "cpu"
    """Where to train."""
    threads: int = 1
    """CPU threads."""
    seed: int = 0
    """Of crops and of initial weights."""
    data: str = "not stated"
    """What the samples were made from, for the model card."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How crops are varied."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the losses."""


def train(config: BuiltinTrainingConfig) -> dict[str, dict[str, Figures]]:
    """Train, keep the best checkpoint by validation, and return its final figures for each condition.

    Raises:
        ValueError: when training or validation would have no samples.
        InputError: when the output folder holds a run already and ``resume`` is not set.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    training, held_out = split(_load(config), config.held_out)
    options = loop_options(config)
    accelerator = start_processes(options)
    trainee = SampleTrainee(config, training, thinned(held_out, config.validation_views))
    trainee.network.to(accelerator.device)
    outcome = Run(options, trainee, SampleData(config, training), accelerator).train()
    if not outcome.finished:
        raise InputError(f"interrupted after step {outcome.step}; continue with --resume")
    calibrate(config.output, trainee.held_out, config.tolerated_loss)
    return export(config, held_out, training)


def _load(config: BuiltinTrainingConfig) -> list[Sample]:
    if config.samples is None and not config.pairs:
        raise InputError("nothing to train on: give --samples DIR, --pairs FILE... or both")
    samples = [] if config.samples is None else load_samples(config.samples)
    return [*samples, *(sample for path in config.pairs for sample in load_pair_samples(path))]


def loop_options(config: BuiltinTrainingConfig) -> TrainingConfig:
    """What the training loop has to know."""
    return TrainingConfig(
        preset="builtin from samples",
        family="choice",
        pairs=(),
        output=config.output / RUN,
        model="",
        resume=config.resume,
        precision="bf16" if config.bfloat16 else "no",
        device="cpu" if config.device == "cpu" else "auto",
        seed=config.seed,
        data=DataConfig(batch=config.batch, workers=0),
        optimizer=OptimizerConfig(
            learning_rate=config.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
            clip=config.clip,
            average=config.average,
        ),
        schedule=ScheduleConfig(max_steps=config.steps, warm_up=config.warm_up, decay="cosine", floor=0.01),
        saving=SavingConfig(
            every=config.validate_every, validate_every=config.validate_every, log_every=50, tracker="none"
        ),
    )


def split(samples: list[Sample], held_out: tuple[str, ...]) -> tuple[list[Sample], list[Sample]]:
    """Training and held-out samples, by scene.

    Raises:
        ValueError: when a held-out scene is unknown, or either side is empty.
    """
    scenes = {sample.scene for sample in samples}
    if unknown := set(held_out) - scenes:
        raise ValueError(f"no samples of held-out scenes {sorted(unknown)}; there are {sorted(scenes)}")
    aside = set(held_out) or {sample.scene for sample in samples if sample.split != "train"}
    training = [sample for sample in samples if sample.scene not in aside]
    validation = [sample for sample in samples if sample.scene in aside]
    if not (training and validation):
        raise ValueError(f"{len(training)} training and {len(validation)} held-out samples: both are needed")
    return training, validation


def thinned(samples: list[Sample], views: int) -> list[Sample]:
    """At most ``views`` samples of each scene and recipe, evenly spread."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.scene, sample.recipe), []).append(sample)
    return [s for group in groups.values() for s in group[:: math.ceil(len(group) / views)]]


_CURVES = {"loss": "loss", "test/output": "output, held-out PSNR in dB", "test/good_output": "good half, PSNR in dB"}
EAGERNESS = tuple(b / 4 for b in range(-8, 7))
"""What calibration tries."""


def calibrate(folder: Path, samples: list[Sample], tolerated_loss: float) -> tuple[float, float]:
    """Choose how eager to be, looked at and learned from (see `ChoiceNetwork`); save both with the weights.

    Looked at: what gains most while the good half loses at most so many dB. That half is chosen by the truth, so that
    errors of the render which happened to be small count as skill: even a perfect enhancer has to trade here, and
    training cannot weigh that exactly. Learned from: what lowers the loss of splats most. A repair with the least
    squared error hedges where it is in doubt, and whoever learns from it learns the blur as well.

    Returns:
        eagerness and boldness.
    """
    enhancer = BuiltinEnhancer.from_pretrained(folder)
    gains, harm, losses = {}, {}, {}
    for eagerness in EAGERNESS:
        enhancer.network.bias_when_shown = eagerness
        figures = validate(enhancer.network, samples)["mean"]
        gains[eagerness] = figures["output"] - figures["render"]
        harm[eagerness] = figures["good_render"] - figures["good_output"]
        losses[eagerness] = figures["loss"]
        print(
            f"eagerness {eagerness:+.2f}: gain {gains[eagerness]:+.3f} dB, good half {-harm[eagerness]:+.3f} dB, "
            f"loss {losses[eagerness]:.4f} of the render's",
            flush=True,
        )
    harmless = [eagerness for eagerness in EAGERNESS if harm[eagerness] <= tolerated_loss]
    chosen = {
        "bias_when_shown": max(harmless, key=gains.__getitem__, default=EAGERNESS[0]),
        "bias_when_learned": min(losses, key=losses.__getitem__),
    }
    enhancer.network.bias_when_shown = chosen["bias_when_shown"]
    enhancer.network.bias_when_learned = chosen["bias_when_learned"]
    enhancer.save(folder)
    return chosen["bias_when_shown"], chosen["bias_when_learned"]


def export(
    config: BuiltinTrainingConfig, held_out: list[Sample], training: list[Sample]
) -> dict[str, dict[str, Figures]]:
    """Measure the saved checkpoint on every held-out view; write ``training.json`` and the model card from it."""
    enhancer = BuiltinEnhancer.from_pretrained(config.output)
    figures = {name: validate(enhancer.network, held_out, name) for name in CONDITIONS}
    report = {
        **enhancer.metadata,
        "parameters": sum(p.numel() for p in enhancer.network.parameters()),
        "training_views": len(training),
        "held_out_views": len(held_out),
        "bias_when_shown": enhancer.network.bias_when_shown,
        "bias_when_learned": enhancer.network.bias_when_learned,
        "figures": figures,
        "curves": curves(read_log(config.output / RUN), tuple(_CURVES)),
    }
    save_curves(config.output / CURVES, {_CURVES[name]: points for name, points in report["curves"].items()})
    (config.output / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    (config.output / "README.md").write_text(model_card(report))
    for name, scenes in figures.items():
        print(f"=== {name}\n{table(scenes)}", flush=True)
    return figures


if __name__ == "__main__":
    import tyro

    train(tyro.cli(BuiltinTrainingConfig))
