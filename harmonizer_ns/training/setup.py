# SPDX-License-Identifier: Apache-2.0
"""This module makes a run out of options: processes, network, data, losses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from harmonizer_ns.devices import DTYPES, choose_device, choose_dtype
from harmonizer_ns.enhancers.one_step import channels_last
from harmonizer_ns.errors import InputError
from harmonizer_ns.training.builtin.config import BuiltinConfig
from harmonizer_ns.training.builtin.data import BuiltinData
from harmonizer_ns.training.builtin.trainee import BuiltinTrainee, initial_network
from harmonizer_ns.training.config import OneStepConfig, TrainingConfig
from harmonizer_ns.training.criterion import Criterion
from harmonizer_ns.training.loop import Outcome, Run
from harmonizer_ns.training.models import check_difix_export, load_network, make_ready
from harmonizer_ns.training.one_step import OneStepTrainee
from harmonizer_ns.training.pairs_data.draws import PairsData
from harmonizer_ns.training.trainee import Data, Trainee

if TYPE_CHECKING:
    from accelerate import Accelerator

_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # accelerate's words


def train(config: TrainingConfig) -> Outcome:
    """Train as the configuration says; under ``torchrun`` or ``accelerate launch``, in every process.

    Raises:
        InputError: on anything that the user can mend.
    """
    config = _settled(config)
    accelerator = _start_processes(config)
    prepare = _prepare_builtin if isinstance(config, BuiltinConfig) else _prepare_one_step
    trainee, data = prepare(config, accelerator)  # type: ignore[arg-type]
    return Run(config, trainee, data, accelerator).train()


def _settled(config: TrainingConfig) -> TrainingConfig:
    """Settle on which device and in which precision this machine trains.

    Raises:
        InputError: when the device is not there, or cannot compute in the precision asked for.
    """
    device = choose_device(config.device)
    dtype = choose_dtype(config.precision, device)
    precision = next(name for name, known in DTYPES.items() if known == dtype)
    if precision == "fp16" and device == "cpu":
        raise InputError("--precision fp16 needs a GPU; use bf16 or fp32")
    return replace(config, device=device, precision=precision)


def _start_processes(config: TrainingConfig) -> Accelerator:
    """Take this process's place among the others, on its device."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # Temporal layers have no gradient on single frames.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    precision = _MIXED[config.precision]
    return Accelerator(cpu=config.device == "cpu", mixed_precision=precision, kwargs_handlers=[unused])


def _prepare_one_step(config: OneStepConfig, accelerator: Accelerator) -> tuple[Trainee, Data]:
    if config.saving.difix_checkpoint:
        check_difix_export(config)
    network = make_ready(load_network(config), config)
    processes = (accelerator.process_index, accelerator.num_processes)
    data = PairsData(config, network.multiple, *processes)  # type: ignore[arg-type]
    criterion = Criterion(config.loss, accelerator.device, data.lacks_motion)
    options = (config.temporal, config.saving.difix_checkpoint)
    return OneStepTrainee(channels_last(network.to(accelerator.device)), criterion, *options), data


def _prepare_builtin(config: BuiltinConfig, accelerator: Accelerator) -> tuple[Trainee, Data]:
    network, stages = initial_network(config)
    data = BuiltinData(config, accelerator.process_index, accelerator.num_processes)
    network = network.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return BuiltinTrainee(network, stages, config, Criterion(config.loss, accelerator.device), data), data
