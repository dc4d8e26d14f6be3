# SPDX-License-Identifier: Apache-2.0
"""This module holds the options of a training run, in small groups; presets (`presets.py`) fill them in.

`TrainingConfig` holds what the training loop needs for every kind of network. Each kind adds its own: `OneStepConfig`
here, `builtin.config.BuiltinConfig`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Suppress

from harmonizer_ns.devices import Device, Precision
from harmonizer_ns.enhancers.lora import ATTENTION
from harmonizer_ns.errors import InputError
from harmonizer_ns.training.journal import Tracker

Family = Literal["difix", "cosmos"]
"""Kind of diffusion network."""


def _check_positive(group: str, options: object, *names: str) -> None:
    for name in names:
        if (value := getattr(options, name)) < 1:
            raise InputError(f"--{group}.{name.replace('_', '-')} should be at least 1, it is {value}")


@dataclass(frozen=True)
class DataConfig:
    """Says what is drawn from the pairs files."""

    weights: tuple[float, ...] = ()
    """How often each pairs file is drawn from, relative to the others. Empty: by its number of pairs."""
    fixing: float = 1.0
    """How much more often than the others those pairs of a file are drawn that show what new views of a reconstruction
    lack: of the streams sparse, underfit, cycle and cross_reference."""
    height: int = 576
    """Height of the training crops in pixels; rounded down to what the network takes."""
    width: int = 1024
    """Width of the training crops in pixels; rounded down to what the network takes."""
    zoom: float = 1.5
    """How much closer than necessary a crop may look, up to the image's own resolution: the scale is drawn between the
    one at which the image just covers the crop and so many times it."""
    flip: bool = True
    """Mirror half of the items, except those with cameras."""
    batch: int = 1
    """Pairs in a batch of one process. A step sees batch x accumulation x processes."""
    accumulation: int = 1
    """Batches whose gradients are averaged before a step."""
    references: int = 1
    """Reference photos shown, as far as pairs have them and the network takes them."""
    workers: int = 2
    """Processes that load images ahead; 0 loads in the training process."""
    allow_outside: bool = False
    """Let pairs files name images outside their own folder."""
    held_out: tuple[str, ...] = ()
    """Scenes that are only validated on, in place of the "test" splits: all other pairs are trained on."""
    validation_pairs: int = 8
    """Held-out pairs that are validated on, evenly spread."""

    def __post_init__(self) -> None:
        _check_positive("data", self, "height", "width", "batch", "accumulation")
        if not 0 < self.fixing < math.inf:
            raise InputError(f"--data.fixing should be positive and finite, it is {self.fixing}")
        if not 1 <= self.zoom < math.inf:
            raise InputError(f"--data.zoom should be at least 1 and finite, it is {self.zoom}")

    def fitted(self, multiple: int) -> DataConfig:
        """Round both sides down to multiples of a number, at least one."""
        height, width = (max(multiple, side // multiple * multiple) for side in (self.height, self.width))
        return replace(self, height=height, width=width)


@dataclass(frozen=True)
class OptimizerConfig:
    """Sets up AdamW, and what guards it."""

    learning_rate: float = 2e-5
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the moving averages of the gradient and of its square."""
    epsilon: float = 1e-8
    """Added to the denominator."""
    weight_decay: float = 1e-2
    """Decoupled weight decay."""
    clip: float = 1.0
    """Largest norm of the gradients; larger ones are scaled down."""
    average: float = 0.0
    """Decay of the moving average of the weights that is validated and exported; 0 uses the weights themselves."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third slower."""
    max_skipped: int = 20
    """Steps in a row without a finite gradient after which the run gives up. Such steps change nothing."""

    def __post_init__(self) -> None:
        _check_positive("optimizer", self, "max_skipped")
        if not 0 <= self.average < 1:
            raise InputError(f"--optimizer.average should be in [0, 1), it is {self.average}")


@dataclass(frozen=True)
class ScheduleConfig:
    """Says how long to train, and at which rate: a function of the step, so that no state has to be kept."""

    max_steps: int = 10_000
    """Optimizer steps of the whole run, resumed parts included."""
    warm_up: int = 500
    """Steps over which the learning rate rises linearly to its peak."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up: stay, fall linearly, or fall as a half cosine, to `floor` at `max_steps`."""
    floor: float = 0.0
    """Learning rate at the end of the decay, as a share of the peak."""

    def __post_init__(self) -> None:
        _check_positive("schedule", self, "max_steps")

    def factor(self, step: int) -> float:
        """Compute the learning rate of the optimizer's ``step``, counted from 1, as a share of the peak.

        ``min(1, step / warm_up) * (floor + (1 - floor) * d(p))`` with ``p`` the share of the steps after the warm-up
        that are done: ``d = 1``, ``1 - p`` or ``(1 + cos(pi p)) / 2``.
        """
        progress = min(1.0, max(0, step - self.warm_up) / max(1, self.max_steps - self.warm_up))
        falling = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
        warm = min(1.0, step / max(1, self.warm_up))
        return warm * (self.floor + (1 - self.floor) * falling[self.decay])


@dataclass(frozen=True)
class LossConfig:
    """Weighs the losses; 0 leaves a loss out. Differences are of colours in [-1, 1], as in the papers."""

    l1: float = 0.0
    """Mean absolute difference of output and target."""
    l2: float = 0.0
    """Mean squared difference."""
    lpips: float = 0.0
    """LPIPS distance."""
    gram: float = 0.0
    """Distance of Gram matrices of features on a random crop."""
    gram_after: int = 0
    """Steps before the Gram loss sets in."""
    gram_crop: int = 400
    """Side of its crop in pixels."""
    patches: float = 0.0
    """Distance of features on random square patches of many sizes."""
    temporal: float = 0.0
    """Squared difference from the previous output, moved along the true motion, in steps with context."""
    preserve: float = 0.0
    """What the output changes for the worse where the input was right already."""
    net: Literal["vgg", "squeeze"] = "vgg"
    """Feature network of LPIPS, Gram and patches."""
    backbone: Path | None = None
    """Its weights, torchvision's state dict. None: downloaded from torchvision's site."""
    heads: Path | None = None
    """Linear weights of LPIPS. None: those of the lpips package."""
    raft: Path | None = None
    """Weights of torchvision's raft_large, for the motion of clips without depth and cameras. None: downloaded."""


@dataclass(frozen=True)
class TemporalConfig:
    """Says how the network is trained on clips, with its own previous outputs as context."""

    context: int = 0
    """Previous outputs shown (K); 0 trains on single frames only."""
    clip: int = 6
    """Frames of a clip. The last one is trained on; those before are what the network makes of them, in their order.
    With more than context + 1 frames it also meets outputs that were made with context, as it will in use."""
    every: int = 2
    """One step in so many is a clip with context, the others are single frames. 1: all."""
    start: int = 0
    """Steps on single frames before the first clip."""
    truth: float = 0.1
    """Share of context frames that are the true frame instead of the network's own output."""

    def __post_init__(self) -> None:
        if self.context and not 1 <= self.context < self.clip:
            raise InputError(f"--temporal.clip should be at least {self.context + 1} frames, it is {self.clip}")
        _check_positive("temporal", self, "every")


@dataclass(frozen=True)
class SavingConfig:
    """Says when checkpoints, logs and validations are due."""

    every: int = 500
    """Steps between checkpoints; there is always one at the end."""
    keep: int = 2
    """Checkpoints kept, the newest ones."""
    validate_every: int = 500
    """Steps between validations and sample sheets; there is always one at the end."""
    log_every: int = 10
    """Steps between entries in the log."""
    tracker: Tracker = "tensorboard"
    """Where curves go besides log.jsonl."""
    difix_checkpoint: bool = False
    """At the end also write model_STEPS.pkl for Difix's own code (SD-Turbo networks with LoRA on the VAE)."""

    def __post_init__(self) -> None:
        _check_positive("saving", self, "every", "keep", "validate_every", "log_every")


@dataclass(frozen=True)
class PartConfig:
    """Says how one part of a network learns."""

    mode: Literal["frozen", "lora", "full"] = "frozen"
    """frozen: not at all; lora: low-rank adapters beside the frozen weights; full: every weight."""
    rank: int = 16
    """Rank of the adapters."""
    targets: tuple[str, ...] = ATTENTION
    """Names of the layers that get an adapter: the last components of their module names."""

    def __post_init__(self) -> None:
        if self.mode == "lora" and (self.rank < 1 or not self.targets):
            raise InputError(f"LoRA needs a rank of at least 1 and targets, got {self.rank} and {self.targets}")


@dataclass(frozen=True)
class TrainingConfig:
    """Describes one training run."""

    pairs: tuple[Path, ...]
    """Pairs files (JSON)."""
    output: Path
    """The run's folder: checkpoints/, enhancer/ (the result), samples/, log.jsonl."""
    model: str
    """What to start from: an enhancer folder, a Hub id, or a .json architecture, which starts from random weights. The
    built-in network also knows "new" and "builtin", the shipped weights."""
    resume: bool = False
    """Continue from the newest checkpoint in the output folder."""
    precision: Precision = "auto"
    """Arithmetic of the network; fp16 scales the loss and needs a GPU. auto: bf16 on a GPU (fp16 before
    Ampere), fp32 elsewhere."""
    device: Device = "auto"
    """Where to train; auto takes the GPU when there is one."""
    seed: int = 0
    """Of new weights, crops and noise."""
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    saving: SavingConfig = field(default_factory=SavingConfig)
    preset: Annotated[str, Suppress] = ""
    """Name of the preset."""


@dataclass(frozen=True)
class OneStepConfig(TrainingConfig):
    """Describes one training run of a one-step diffusion network."""

    backbone: PartConfig = field(default_factory=lambda: PartConfig("full"))
    """How the UNet or transformer learns."""
    vae: PartConfig = field(default_factory=PartConfig)
    """How the VAE's decoder learns. Anything but frozen trains the skip convolutions in full."""
    skip_dropout: float = 0.0
    """Share of an image's skip connections, from encoder to decoder, that are cut in training."""
    timestep: int | None = None
    """Diffusion step that images count as (SD-Turbo networks); None: that of the model."""
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    family: Annotated[Family, Suppress] = "difix"
    """Kind of network; a preset's."""
