# SPDX-License-Identifier: Apache-2.0
"""An optimizer step adds up gradients of several batches, clips them, and is taken only when they are finite."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harmonizer_ns.devices import is_out_of_memory
from harmonizer_ns.errors import InputError
from harmonizer_ns.training.average import Average
from harmonizer_ns.training.checkpoints import Tensors
from harmonizer_ns.training.config import OneStepConfig, TrainingConfig
from harmonizer_ns.training.trainee import Trainee, trainable

if TYPE_CHECKING:
    from accelerate import Accelerator

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Report:
    """Tells what one step was like.

    Args:
        loss: mean over batches and processes.
        values: terms of the loss, likewise, with ``lr`` and ``gradient_norm`` (before clipping).
        taken: False when the gradient was not finite and the step was skipped.
    """

    loss: float
    values: dict[str, float]
    taken: bool


class Stepper:
    """Owns the optimizer, its loss scaling, and the average of the weights.

    Args:
        config: of the run.
        trainee: its network is on the accelerator's device.
        accelerator: where to compute; wraps the network for several processes.

    Raises:
        InputError: when nothing in the network learns.
    """

    def __init__(self, config: TrainingConfig, trainee: Trainee, accelerator: Accelerator) -> None:
        self.config, self.trainee, self.accelerator = config, trainee, accelerator
        self.parameters = trainable(trainee.network)
        if not self.parameters:
            raise InputError("nothing is trained: --backbone.mode and --vae.mode are both frozen")
        self.network = accelerator.prepare_model(trainee.network)
        options = config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            options.learning_rate,
            betas=options.betas,
            eps=options.epsilon,
            weight_decay=options.weight_decay,
            fused=accelerator.device.type == "cuda",
        )
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=config.precision == "fp16")
        self.average = Average(self.parameters, options.average)

    def step(self, step: int, batches: list[Any]) -> Report:
        """Take step number ``step``, counted from 1. All that is random in it depends on seed and step alone."""
        options = self.config.optimizer
        rate = options.learning_rate * self.config.schedule.factor(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        with _memory_explained(self.config, step):
            loss, parts = self._accumulate(step, batches)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), options.clip)
        found = torch.stack([loss, norm, *parts.values()]).tolist()  # a GPU is waited for once
        taken = math.isfinite(found[0]) and math.isfinite(found[1])
        if taken:
            self.scaler.step(self.optimizer)
            self.average.follow(step)
        self.scaler.update()
        values = dict(zip(parts, found[2:], strict=True))
        return Report(found[0], {**values, "lr": rate, "gradient_norm": found[1]}, taken)

    def _accumulate(self, step: int, batches: list[Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Fill the gradients, and return the mean loss and its terms."""
        totals: dict[str, Tensor] = {}
        for micro, batch in enumerate(batches):
            seed_torch(self.config.seed, step, micro, self.accelerator.process_index)
            last = micro == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.network):
                loss, parts = self.trainee.loss(self.network, batch, step)
                self.scaler.scale(loss / len(batches)).backward()
            for name, value in {"loss": loss.detach(), **parts}.items():
                totals[name] = totals.get(name, 0.0) + value.float() / len(batches)
        means: Any = self.accelerator.reduce(totals, "mean")
        return means.pop("loss"), means

    def tensors(self) -> Tensors:
        """Collect what a checkpoint has to hold: weights that learn, moments of the optimizer, the average."""
        moments = {
            f"{kind}/{name}": self.optimizer.state[value][kind]
            for name, value in self.parameters.items()
            for kind in _MOMENTS
            if self.optimizer.state[value]
        }
        tensors: Tensors = {"weights": dict(self.parameters), "optimizer": moments}
        return {**tensors, "average": self.average.values} if self.average.values else tensors

    @torch.no_grad()
    def load(self, tensors: Tensors, scaler: dict[str, Any]) -> None:
        """Continue from what `tensors` and the scaler's ``state_dict`` gave.

        Raises:
            InputError: when the tensors are those of another network.
        """
        _check_names(self.parameters, tensors["weights"])
        for name, value in self.parameters.items():
            value.copy_(tensors["weights"][name])
            moments = tensors["optimizer"]
            if f"step/{name}" in moments:
                state = {kind: moments[f"{kind}/{name}"] for kind in _MOMENTS}
                # Fused steps want all of them where, and laid out as, the weights are.
                in_place = {kind: torch.zeros_like(value).copy_(state[kind]) for kind in _MOMENTS[:2]}
                where = value.device if self.optimizer.defaults["fused"] else "cpu"
                self.optimizer.state[value] = {"step": state["step"].to(where), **in_place}
        self.average.load(tensors.get("average", {}))
        if scaler:
            self.scaler.load_state_dict(scaler)


def _check_names(parameters: dict[str, torch.nn.Parameter], weights: dict[str, Tensor]) -> None:
    wrong = sorted(parameters.keys() ^ weights.keys())
    wrong += sorted(n for n in parameters.keys() & weights.keys() if parameters[n].shape != weights[n].shape)
    if wrong:
        raise InputError(
            f"the checkpoint is of another network: {len(wrong)} tensors that learn do not fit, such as {wrong[0]}; "
            "resume with the model and options that the run began with"
        )


def seed_torch(*numbers: int) -> None:
    """Seed torch's global generators from several numbers; near numbers give unrelated streams."""
    torch.manual_seed(random.Random("/".join(map(str, numbers))).getrandbits(63))


@contextmanager
def _memory_explained(config: TrainingConfig, step: int) -> Iterator[None]:
    """Turn running out of memory into advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(_memory_advice(config, step)) from error


def _memory_advice(config: TrainingConfig, step: int) -> str:
    data, advice, more = config.data, ["--data.height and --data.width"], []
    if data.batch > 1:
        same = f"1 with --data.accumulation {data.accumulation * data.batch} sees the same pairs a step"
        advice.insert(0, f"--data.batch ({same}, also with --resume)")
    if isinstance(config, OneStepConfig):
        advice += ["--temporal.context"] if config.temporal.context else []
        if not config.optimizer.gradient_checkpointing:
            more.append("add --optimizer.gradient-checkpointing")
        if config.backbone.mode == "full":
            more.append("train adapters only with --backbone.mode lora")
    if config.precision == "fp32":
        more.append("use --precision bf16")
    lines = [f"lower {', or '.join(advice)}", *more]
    return (
        f"out of memory at step {step} with batches of {data.batch} at {data.width}x{data.height}: {'; '.join(lines)}"
    )
