# SPDX-License-Identifier: Apache-2.0
"""From options to a run: processes, network, data, losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harmonizer_ns.enhancers.builtin.network import MULTIPLE
from harmonizer_ns.errors import InputError
from harmonizer_ns.training.builtin.trainee import ChoiceTrainee
from harmonizer_ns.training.config import TrainingConfig
from harmonizer_ns.training.criterion import Criterion
from harmonizer_ns.training.loop import Outcome, Run
from harmonizer_ns.training.models import check_difix_export, load_choice_network, load_network, make_ready
from harmonizer_ns.training.one_step import OneStepTrainee
from harmonizer_ns.training.pairs_data import PairsData
from harmonizer_ns.training.trainee import Trainee

if TYPE_CHECKING:
    from accelerate import Accelerator


def train(config: TrainingConfig) -> Outcome:
    """Train as the configuration says; under ``torchrun`` or ``accelerate launch``, in every process.

    Raises:
        InputError: on anything that the user can mend.
    """
    accelerator = start_processes(config)
    prepare = _prepare_choice if config.family == "choice" else _prepare_one_step
    trainee, data = prepare(config, accelerator)
    return Run(config, trainee, data, accelerator).train()


def start_processes(config: TrainingConfig) -> Accelerator:
    """This process among the others, on its device.

    Raises:
        InputError: when the device cannot compute in the precision asked for.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    on_cpu = config.device == "cpu" or not torch.cuda.is_available()
    if config.precision == "fp16" and on_cpu:
        raise InputError("--precision fp16 needs a GPU; use bf16 or no")
    # Temporal layers have no gradient on single frames.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=on_cpu, mixed_precision=config.precision, kwargs_handlers=[unused])


def _prepare_one_step(config: TrainingConfig, accelerator: Accelerator) -> tuple[Trainee, PairsData]:
    if config.saving.difix_checkpoint:
        check_difix_export(config)
    network = make_ready(load_network(config), config)
    data, criterion = _data(config, network.multiple, accelerator)  # type: ignore[arg-type]
    network = network.to(accelerator.device)
    options = (config.temporal, config.saving.difix_checkpoint)
    return OneStepTrainee(config.family, network, criterion, *options), data


def _prepare_choice(config: TrainingConfig, accelerator: Accelerator) -> tuple[Trainee, PairsData]:
    _check_choice(config)
    network = load_choice_network(config)
    data, criterion = _data(config, MULTIPLE, accelerator)
    if data.lacks_geometry:
        raise InputError('the built-in network warps photos: no pair has "depth" and "cameras"')
    network = network.to(accelerator.device)
    return ChoiceTrainee(network, criterion, config.temporal, config.schedule), data


def _check_choice(config: TrainingConfig) -> None:
    """Refuse options that would do nothing."""
    wrong = {
        "--backbone.mode": config.backbone.mode != "full",
        "--vae.mode": config.vae.mode != "frozen",
        "--skip-dropout": config.skip_dropout != 0,
        "--timestep": config.timestep is not None,
        "--optimizer.gradient-checkpointing": config.optimizer.gradient_checkpointing,
        "--saving.difix-checkpoint": config.saving.difix_checkpoint,
        "--temporal.context above 1": config.temporal.context > 1,
    }
    if any(wrong.values()):
        named = ", ".join(name for name, is_wrong in wrong.items() if is_wrong)
        raise InputError(
            f"the built-in network always learns as a whole and sees one previous output: leave out {named}"
        )


def _data(config: TrainingConfig, multiple: int, accelerator: Accelerator) -> tuple[PairsData, Criterion]:
    data = PairsData(config, multiple, accelerator.process_index, accelerator.num_processes)
    return data, Criterion(config.loss, accelerator.device, data.lacks_motion)
