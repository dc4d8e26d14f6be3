# SPDX-License-Identifier: Apache-2.0
"""Train the built-in enhancer: ``python -m harmonizer_ns.training.builtin --samples DIR --output DIR``."""

from __future__ import annotations

import copy
import json
import math
import random
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from harmonizer_ns.enhancers.builtin import BuiltinEnhancer, build_network
from harmonizer_ns.enhancers.builtin_inputs import BuiltinInputs
from harmonizer_ns.enhancers.builtin_network import ChoiceNetwork
from harmonizer_ns.enhancers.checkpoint import load_checkpoint
from harmonizer_ns.training.augment import AugmentConfig, random_batch
from harmonizer_ns.training.losses import LossConfig, total_loss
from harmonizer_ns.training.model_card import model_card
from harmonizer_ns.training.samples import Batch, Sample, load_samples
from harmonizer_ns.training.validation import CONDITIONS, Figures, score, table, validate


@dataclass(frozen=True)
class BuiltinTrainingConfig:
    """Training of the built-in enhancer."""

    samples: Path
    """Folder of the samples: ``<scene>/<recipe>_<view>.safetensors``."""
    output: Path
    """Checkpoint folder; receives the best checkpoint so far, ``training.json`` and the model card."""
    held_out: tuple[str, ...] = ()
    """Scenes that are only validated on. Empty: the samples whose split is not ``train``."""
    initial: Path | None = None
    """Checkpoint folder to start from; None starts as the identity."""
    residual: float = 0.0
    """Bound of the residual that the network may add to its choice."""
    tolerated_loss: float = 0.05
    """How many dB the better half of the held-out pixels may lose when eagerness is calibrated after training."""
    steps: int = 4000
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
    validation_views: int = 4
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
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    training, held_out = split(load_samples(config.samples), config.held_out)
    network, kwargs, stages = _initial_network(config)
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    keeper = _Keeper(config, kwargs, stages, training, thinned(held_out, config.validation_views))
    generator, start = random.Random(config.seed), time.perf_counter()
    for step in range(1, config.steps + 1):
        batch = to_device(random_batch(training, config.batch, config.augment, generator), config.device)
        loss = _optimize(network, optimizer, batch, step, config)
        _follow(average, network, min(config.average, step / (step + 10)))
        if step % 50 == 0:
            print(f"step {step} loss {loss:+.4f} {(time.perf_counter() - start) / step:.3f} s/step", flush=True)
        if step % config.validate_every == 0 or step == config.steps:
            keeper.consider(average, step)
    calibrate(config.output, keeper.validation, config.tolerated_loss)
    return export(config, held_out, training)


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


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """The same batch on a device."""
    inputs = BuiltinInputs(*(getattr(batch.inputs, f.name).to(device) for f in fields(BuiltinInputs)))
    return Batch(inputs, batch.target.to(device), batch.good.to(device))


def _initial_network(config: BuiltinTrainingConfig) -> tuple[ChoiceNetwork, dict, list[dict]]:
    """The network to train, its arguments, and the training that it has had."""
    kwargs: dict[str, Any] = {"residual": config.residual, "eagerness": 0.0}
    network, stages = ChoiceNetwork(**kwargs), []
    if config.initial is not None:
        checkpoint = load_checkpoint(config.initial)
        kwargs = checkpoint.kwargs | kwargs
        network, stages = build_network(replace(checkpoint, kwargs=kwargs)), checkpoint.metadata.get("stages", [])
    network = network.to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.train(), kwargs, stages


def _optimize(
    network: ChoiceNetwork, optimizer: torch.optim.Optimizer, batch: Batch, step: int, config: BuiltinTrainingConfig
) -> float:
    """One step of the optimizer; the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * schedule(step, config.steps, config.warm_up)
    with torch.autocast(torch.device(config.device).type, torch.bfloat16, enabled=config.bfloat16):
        choice = network(batch.inputs)
    loss = total_loss(choice, batch, config.loss, step / config.steps)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
    optimizer.step()
    return loss.item()


def schedule(step: int, steps: int, warm_up: int) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine to 0.01."""
    progress = min(1.0, max(0, step - warm_up) / max(1, steps - warm_up))
    return min(1.0, step / max(1, warm_up)) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def _follow(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    for mean, current in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(current, 1 - decay)


class _Keeper:
    """Validates, and saves the checkpoint when it is the best so far."""

    def __init__(
        self,
        config: BuiltinTrainingConfig,
        kwargs: dict,
        stages: list[dict],
        training: list[Sample],
        validation: list[Sample],
    ) -> None:
        self.config, self.kwargs, self.stages, self.validation = config, kwargs, stages, validation
        self.best = -math.inf
        self.scenes = sorted({sample.scene for sample in training})

    def consider(self, network: ChoiceNetwork, step: int) -> None:
        on_cpu = copy.deepcopy(network).cpu()
        figures = validate(on_cpu, self.validation)
        print(f"--- step {step}\n{table(figures)}", flush=True)
        if score(figures["mean"]) <= self.best:
            return
        self.best = score(figures["mean"])
        metadata = {
            "licence": "Apache-2.0",
            "data": self.config.data,
            "training_scenes": self.scenes,
            "stages": [*self.stages, {"steps": step, "config": _plain(self.config)}],
        }
        BuiltinEnhancer(on_cpu, self.kwargs, metadata).save(self.config.output)
        print(f"saved, score {self.best:.3f}", flush=True)


EAGERNESS = tuple(b / 4 for b in range(-4, 9))
"""What calibration tries."""


def calibrate(folder: Path, samples: list[Sample], tolerated_loss: float) -> float:
    """Choose the eagerness that gains most while the good half loses at most so many dB; save it with the weights.

    The good half is chosen by the truth, so that errors of the render which happened to be small count as skill: even a
    perfect enhancer has to trade here, and training cannot weigh that exactly.
    """
    enhancer = BuiltinEnhancer.from_pretrained(folder)
    gains = {}
    for eagerness in EAGERNESS:
        enhancer.network.eagerness = eagerness
        figures = validate(enhancer.network, samples)["mean"]
        gains[eagerness] = figures["output"] - figures["render"]
        loss = figures["good_render"] - figures["good_output"]
        print(f"eagerness {eagerness:+.2f}: gain {gains[eagerness]:+.3f} dB, good half {-loss:+.3f} dB", flush=True)
        if loss > tolerated_loss:
            del gains[eagerness]
    best = max(gains, key=gains.__getitem__, default=EAGERNESS[0])
    enhancer.network.eagerness = best
    enhancer.kwargs = enhancer.kwargs | {"eagerness": best}
    enhancer.save(folder)
    return best


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
        "figures": figures,
    }
    (config.output / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    (config.output / "README.md").write_text(model_card(report))
    for name, scenes in figures.items():
        print(f"=== {name}\n{table(scenes)}", flush=True)
    return figures


def _plain(config: BuiltinTrainingConfig) -> dict:
    """The configuration as JSON values; local paths stay out of the checkpoint."""
    values = asdict(config)
    for name in ("samples", "output", "initial"):
        del values[name]
    return values


if __name__ == "__main__":
    import tyro

    train(tyro.cli(BuiltinTrainingConfig))
