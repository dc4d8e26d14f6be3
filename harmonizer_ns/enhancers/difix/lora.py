# SPDX-License-Identifier: Apache-2.0
"""Difix's low-rank adapter of the VAE decoder.

A layer with adapter computes ``W + (8 / r) B A`` for rank ``r``: peft's ``lora_alpha`` was left at its default of 8
when Difix was trained, so the scale follows the rank (2.0 at r = 4).
"""

from __future__ import annotations

import re

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

ALPHA = 8
"""Numerator of the adapter's scale."""
ADAPTER = "vae_skip"
"""The adapter's name."""
TARGETS = (
    *("conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out"),
    *("skip_conv_1", "skip_conv_2", "skip_conv_3", "skip_conv_4"),
    *("to_k", "to_q", "to_v", "to_out.0"),
)
"""The decoder's layers whose names end so have adapters."""
_DOWN, _UP = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight"


def adapted_names(vae: AutoencoderKL) -> list[str]:
    """Names of the layers that have an adapter in Difix: 43 in the full architecture."""
    return [
        name
        for name, layer in vae.named_modules()
        if name.startswith("decoder.")
        and isinstance(layer, (nn.Conv2d, nn.Linear))
        and any(name.endswith(f".{target}") for target in TARGETS)
    ]


def add_lora(vae: AutoencoderKL, rank: int) -> None:
    """Put adapters into this one autoencoder. New ones change nothing until they are trained or filled."""
    from peft import LoraConfig, inject_adapter_in_model

    exactly = "|".join(map(re.escape, adapted_names(vae)))  # a list would match endings of the encoder's names too
    lora = LoraConfig(r=rank, lora_alpha=ALPHA, init_lora_weights="gaussian", target_modules=exactly)
    inject_adapter_in_model(lora, vae, adapter_name=ADAPTER)
    vae.requires_grad_(True)  # peft freezes all the rest; that is for training to decide


def rank_of(state: dict[str, Tensor]) -> int | None:
    """The adapters' rank in a state of weights; None when there are none."""
    return next((tensor.shape[0] for name, tensor in state.items() if name.endswith(_DOWN)), None)


def merged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that do the same without adapters; those that have none are the same tensors.

    Raises:
        KeyError: naming a part of an adapter that is missing.
    """
    halves = {name for name in state if name.endswith((_DOWN, _UP))}
    plain = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if name not in halves}
    for layer in {name.removesuffix(_DOWN).removesuffix(_UP) for name in halves}:
        weight = f"{layer}.weight"
        plain[weight] = _merged_weight(plain[weight], state[layer + _DOWN], state[layer + _UP])
    return plain


def _merged_weight(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """``W + (8 / r) B A``; of a convolution, A has the kernel and B is 1x1."""
    product = up.float().flatten(1) @ down.float().flatten(1)
    return (weight.float() + ALPHA / down.shape[0] * product.view_as(weight)).to(weight.dtype)
