# SPDX-License-Identifier: Apache-2.0
"""Temporal SD-Turbo: attention along time, interleaved with a UNet's spatial transformer layers.

Every context frame has a latent of its own and passes through the UNet beside the view; after each spatial transformer
every pixel attends to the same pixel of the view and of the context. The output projections begin at zero, so a new
temporal network repairs exactly as the single-frame network that it was made from.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from harmonizer_ns.enhancers.difix.attention import Layout

TEMPORAL = "temporal"
"""Name of the temporal layer in each spatial transformer; it is in the names of its weights and in no others."""


class TemporalAttention(nn.Module):
    """Attention along view and context, pixel by pixel, added to what the spatial layer gives.

    Args:
        channels: of the features.
        heads: of the attention.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.to_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, features: Float[Tensor, "bv c h w"], layout: Layout) -> Float[Tensor, "bv c h w"]:
        """Refine view and context; references pass as they are. Without context nothing happens."""
        if not layout.context:
            return features
        grouped = features.unflatten(0, (-1, layout.images))
        references, frames = grouped.split([layout.references, 1 + layout.context], dim=1)
        pixels = frames.permute(0, 3, 4, 1, 2)
        refined = pixels + self._attended(pixels.flatten(0, 2)).view_as(pixels)
        return torch.cat([references, refined.permute(0, 3, 4, 1, 2)], dim=1).flatten(0, 1)

    def after(self, spatial: nn.Module, args: tuple, kwargs: dict[str, Any], output: tuple[Tensor]) -> tuple[Tensor]:
        """As a forward hook of a spatial layer, which gets the layout among its ``cross_attention_kwargs``."""
        return (self(output[0], kwargs["cross_attention_kwargs"]["layout"]),)

    def _attended(self, pixels: Float[Tensor, "p f c"]) -> Float[Tensor, "p f c"]:
        tokens = self.norm(pixels)
        tokens = tokens + age_code(tokens)
        query, key, value = self.to_qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def age_code(tokens: Float[Tensor, "p f c"]) -> Float[Tensor, "f c"]:
    """Sines and cosines of a frame's age (0: the view), in four frequencies: attention itself knows no order."""
    frames, channels = tokens.shape[1:]
    octaves = torch.arange(channels, device=tokens.device) // 2 % 4
    phases = torch.arange(frames, device=tokens.device)[:, None] * (torch.pi / 2) / 2.0**octaves
    sine = torch.arange(channels, device=tokens.device) % 2 == 0
    return torch.where(sine, phases.sin(), phases.cos()).to(tokens.dtype)


def add_temporal_layers(unet: UNet2DConditionModel) -> None:
    """Put a temporal layer behind every spatial transformer of this one UNet, as its submodule ``temporal``."""
    for layer in list(unet.modules()):
        if isinstance(layer, Transformer2DModel):
            temporal = TemporalAttention(layer.config["in_channels"], layer.config["num_attention_heads"])
            layer.add_module(TEMPORAL, temporal)
            layer.register_forward_hook(temporal.after, with_kwargs=True)  # type: ignore[arg-type]
