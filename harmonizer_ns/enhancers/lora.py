# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters (LoRA): which layers have them, how they are put in, and how they are merged into the weights.

With a weight ``W``, an adapter of rank ``r`` computes ``W + (alpha / r) B A`` (Hu et al. 2021, equation 3). ``alpha``
is 8 for every rank: peft's ``lora_alpha`` was left at its default when Difix was trained, so the scale is 2 at r = 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from harmonizer_ns.errors import InputError, damage_of

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
"""What Difix adapts in the VAE's decoder: 43 layers in the full architecture."""

VAE_ADAPTER = "vae_skip"
"""Name of that adapter in Difix."""

_HALF = re.compile(r"(?P<layer>.+)\.lora_[AB]\.(?P<adapter>[^.]+)\.weight")


def matching_layers(module: nn.Module, targets: tuple[str, ...], scope: str = "") -> list[str]:
    """Names of the linear and convolutional layers whose name ends, at a dot, in one of the targets.

    Args:
        module: where to look.
        targets: endings.
        scope: only layers below this submodule (``"decoder"``).
    """
    below = f"{scope}." if scope else ""
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Conv3d))
        and name.startswith(below)
        and any(name == target or name.endswith(f".{target}") for target in targets)
    ]


def add_adapters(module: nn.Module, targets: tuple[str, ...], rank: int, adapter: str, scope: str = "") -> None:
    """Put adapters beside the `matching_layers`, in place, and freeze all other weights of the module.

    New adapters change nothing until they are trained or filled.

    Raises:
        InputError: when no layer matches.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = matching_layers(module, targets, scope)
    if not names:
        raise InputError(f"no layer of {type(module).__name__} matches the LoRA targets {', '.join(targets)}")
    exactly = "|".join(map(re.escape, names))  # a list would match endings of other names too
    lora = LoraConfig(r=rank, lora_alpha=ALPHA, init_lora_weights="gaussian", target_modules=exactly)
    inject_adapter_in_model(lora, module, adapter_name=adapter)


def adapted_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every layer with adapters, with its name."""
    return ((name, layer) for name, layer in module.named_modules() if hasattr(layer, "lora_A"))


def rank_of(state: Mapping[str, Tensor]) -> int | None:
    """The adapters' rank in a state of weights; None when there are none."""
    return next((tensor.shape[0] for name, tensor in state.items() if ".lora_A." in name), None)


def merged(state: Mapping[str, Tensor], source: str = "the network") -> dict[str, Tensor]:
    """The weights that do the same without adapters; those that have none are the same tensors.

    Args:
        state: weights and adapters.
        source: where they came from, for messages.

    Raises:
        InputError: naming a part of an adapter that is missing, or an adapter that does not fit.
    """
    halves = {name: match for name in state if (match := _HALF.fullmatch(name))}
    plain = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if name not in halves}
    try:
        for layer, adapter in dict.fromkeys(match.group("layer", "adapter") for match in halves.values()):
            down, up = (state[f"{layer}.lora_{half}.{adapter}.weight"].detach() for half in "AB")
            weight = plain[f"{layer}.weight"].detach()
            with damage_of(f"{source}: the adapter of {layer}"):
                plain[f"{layer}.weight"] = _merged_weight(weight, down, up)
    except KeyError as error:
        raise InputError(f"an adapter of {source} is incomplete, it has no {error.args[0]}") from error
    return plain


def _merged_weight(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """``W + (8 / r) B A``; of a convolution, A has the kernel and B is 1x1."""
    product = up.float().flatten(1) @ down.float().flatten(1)
    return (weight.float() + ALPHA / down.shape[0] * product.view_as(weight)).to(weight.dtype)
