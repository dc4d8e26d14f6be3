# SPDX-License-Identifier: Apache-2.0
"""Networks to train are loaded and made ready here, and written for Difix's own code."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harmonizer_ns.enhancers.checkpoint import load_weights
from harmonizer_ns.enhancers.lora import VAE_ADAPTER, VAE_DECODER, adapted_layers, add_adapters, merged, rank_of
from harmonizer_ns.enhancers.one_step import OneStepNetwork
from harmonizer_ns.enhancers.specs import ARCHITECTURES, resolve
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import read_json
from harmonizer_ns.training.config import OneStepConfig, PartConfig

logger = logging.getLogger(__name__)

SKIP, TEMPORAL = "skip_conv", ".temporal."
"""In the names of layers that pass the encoder's activations on to the decoder, and that look at previous outputs."""
_BACKBONE_ADAPTER = "backbone"


def load_network(config: OneStepConfig) -> OneStepNetwork:
    """Load the network that a run starts from, on the CPU in float32.

    Raises:
        InputError: when there is no such model, or it is of another kind.
    """
    spec = ARCHITECTURES[config.family]
    source = Path(config.model)
    torch.manual_seed(config.seed)  # of new weights, also those beside loaded ones
    if source.suffix == ".json":
        logger.warning("%s is an architecture: training begins with random weights", source)
        network = resolve(spec.network).from_config(read_json(source))
    else:
        load = resolve(spec.enhancer).from_pretrained
        network = load(config.model, device="cpu", dtype=torch.float32, **spec.to_train).network
    return _with_context(network, config.temporal.context)


def make_ready(network: OneStepNetwork, config: OneStepConfig) -> OneStepNetwork:
    """Let the parts of a network learn that the configuration names, as it says; returns the network."""
    network.requires_grad_(False)
    make_trainable(getattr(network, network.backbone), config.backbone, _BACKBONE_ADAPTER)
    make_trainable(network.vae, config.vae, VAE_ADAPTER, scope="decoder")  # type: ignore[arg-type]
    learning = [SKIP] if config.vae.mode != "frozen" else []
    learning += [TEMPORAL] if config.backbone.mode != "frozen" else []
    for name, parameter in network.named_parameters():
        if any(new in name for new in learning):  # too new for adapters beside frozen weights
            parameter.requires_grad_(True)
    _set_references(network, config)
    for name in ("skip_dropout", "timestep"):
        _set(network, name, getattr(config, name))
    if config.optimizer.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    return network


def make_trainable(module: nn.Module, config: PartConfig, adapter: str, *, scope: str = "") -> None:
    """Let a part learn as its configuration says, in place.

    Args:
        module: the part; what it required gradients for before does not matter.
        config: how.
        adapter: name of the adapter. Adapters of this name that the module already has go on learning.
        scope: only layers below this submodule get adapters (``"decoder"``).

    Raises:
        InputError: when no layer matches the targets, or the adapters that are there have another rank.
    """
    module.requires_grad_(config.mode == "full")
    if config.mode != "lora":
        return
    existing = [layer for _, layer in adapted_layers(module) if adapter in layer.lora_A]
    if existing:
        _continue(existing, config, adapter)
        return
    add_adapters(module, config.targets, config.rank, adapter, scope)


def _continue(layers: list[Any], config: PartConfig, adapter: str) -> None:
    ranks = {layer.r[adapter] for layer in layers}
    if ranks != {config.rank}:
        raise InputError(
            f"the model already has adapters {adapter!r} of rank {sorted(ranks)}, the configuration says "
            f"{config.rank}; set the rank to that of the model"
        )
    for layer in layers:
        for matrices in (layer.lora_A, layer.lora_B):
            matrices[adapter].requires_grad_(True)


def _set_references(network: Any, config: OneStepConfig) -> None:
    """Let the result look at as many photos as it was trained with; no weights depend on it."""
    if config.family == "difix":
        network.max_references = config.data.references
    elif config.data.references:
        raise InputError(f"--data.references {config.data.references}: Cosmos networks use no reference photos")


def _set(network: nn.Module, name: str, value: float | None) -> None:
    """Set an option of the network that only some have."""
    if hasattr(network, name) and value is not None:
        setattr(network, name, value)
    elif value:
        raise InputError(f"--{name.replace('_', '-')} {value}: a {type(network).__name__} has no such option")


def export_difix(network: Any, path: Path) -> None:
    """Write a ``model_*.pkl`` for Difix's own code: the UNet with its adapters merged, the VAE's beside its weights.

    Args:
        network: a Difix network that `check_difix_export` let pass.
        path: of the file.
    """
    from accelerate import init_empty_weights

    from harmonizer_ns.enhancers.difix.formats import write_checkpoint
    from harmonizer_ns.enhancers.difix.network import DifixNetwork

    vae = network.vae.state_dict()
    with init_empty_weights():
        plain = DifixNetwork.from_config(network.config)
        add_adapters(plain.vae, VAE_DECODER, rank_of(vae), VAE_ADAPTER, scope="decoder")  # type: ignore[arg-type]
    parts = {"unet": merged(network.unet.state_dict()), "vae": vae}
    state = {f"{part}.{name}": value.detach() for part, weights in parts.items() for name, value in weights.items()}
    load_weights(plain, {**state, "prompt_embedding": network.prompt_embedding}, assign=True)
    write_checkpoint(plain, path)


def check_difix_export(config: OneStepConfig) -> None:
    """Make sure, before training, that `export_difix` will be possible.

    Raises:
        InputError: when the network will not be one that such a file can hold.
    """
    adapted = config.vae.mode == "lora" and set(config.vae.targets) == set(VAE_DECODER)
    if config.family != "difix" or config.temporal.context or not adapted:
        raise InputError(
            "--saving.difix-checkpoint needs a single-frame SD-Turbo network with --vae.mode lora on Difix's layers"
        )


def _with_context(network: OneStepNetwork, context: int) -> OneStepNetwork:
    """Put the weights into a network that looks at so many previous outputs; 0 leaves it as it is."""
    if context in (0, network.max_context):
        return network
    if network.max_context:
        raise InputError(f"the model looks at {network.max_context} previous outputs, give --temporal.context that")
    return network.with_context(context)
