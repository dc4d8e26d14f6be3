# SPDX-License-Identifier: Apache-2.0
"""Which parameters of a network learn: each part is frozen, trained in full, or through low-rank adapters (LoRA).

With a weight ``W``, an adapter of rank ``r`` computes ``W + (alpha / r) B A`` (Hu et al. 2021, equation 3). ``alpha``
is 8 for every rank, as in Difix's checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harmonizer_ns.errors import InputError

ALPHA = 8
"""Numerator of an adapter's scale."""

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The projections of attention layers in diffusers' models."""

UNET = (
    *ATTENTION,
    *("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv", "conv1", "conv2", "conv_shortcut", "conv_in", "conv_out", "time_emb_proj"),
)
"""Every layer of a diffusion UNet but the time embedding, which is a constant at a fixed noise level."""

COSMOS = (*ATTENTION, "ff.net.0.proj", "ff.net.2")
"""Attention and feed-forward layers of the Cosmos transformer."""

VAE_DECODER = (
    *ATTENTION,
    *("conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out"),
    *("skip_conv_1", "skip_conv_2", "skip_conv_3", "skip_conv_4"),
)
"""What Difix adapts in the VAE's decoder."""


@dataclass(frozen=True)
class PartConfig:
    """How one part of a network learns."""

    mode: Literal["frozen", "lora", "full"] = "frozen"
    """frozen: not at all; lora: low-rank adapters beside the frozen weights; full: every weight."""
    rank: int = 16
    """Rank of the adapters."""
    targets: tuple[str, ...] = ATTENTION
    """Names of the layers that get an adapter: the last components of their module names."""

    def __post_init__(self) -> None:
        if self.mode == "lora" and (self.rank < 1 or not self.targets):
            raise InputError(f"LoRA needs a rank of at least 1 and targets, got {self.rank} and {self.targets}")


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
    from peft import LoraConfig, inject_adapter_in_model

    names = matching_layers(module, config.targets, scope)
    if not names:
        raise InputError(f"no layer of {type(module).__name__} matches the LoRA targets {', '.join(config.targets)}")
    exactly = "|".join(map(re.escape, names))  # a list would match endings of other names too
    lora = LoraConfig(r=config.rank, lora_alpha=ALPHA, init_lora_weights="gaussian", target_modules=exactly)
    inject_adapter_in_model(lora, module, adapter_name=adapter)


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


def matching_layers(module: nn.Module, targets: tuple[str, ...], scope: str = "") -> list[str]:
    """Names of the linear and convolutional layers whose name ends, at a dot, in one of the targets."""
    below = f"{scope}." if scope else ""
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Conv3d))
        and name.startswith(below)
        and any(name == target or name.endswith(f".{target}") for target in targets)
    ]


def adapted_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every layer with adapters, with its name."""
    return ((name, layer) for name, layer in module.named_modules() if hasattr(layer, "lora_A"))


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The state that the module would have without adapters but with the same output; the module stays as it is.

    Merged weights are new tensors, all others are the module's own.
    """
    state = dict(module.state_dict())
    for name, layer in adapted_layers(module):
        state[f"{name}.base_layer.weight"] = _merged_weight(layer)
    return {name.replace(".base_layer", ""): value for name, value in state.items() if ".lora_" not in name}


@torch.no_grad()
def _merged_weight(layer: Any) -> Tensor:
    weight = layer.base_layer.weight.clone()
    for adapter in layer.active_adapters:
        weight += layer.get_delta_weight(adapter)
    return weight
