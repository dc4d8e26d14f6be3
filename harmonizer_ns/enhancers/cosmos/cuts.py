# SPDX-License-Identifier: Apache-2.0
"""Exact cuts in the graph of a Cosmos network: the same outputs, less work, no retraining.

- Text that is zero makes cross-attention add exactly 0: keys, values and the output projection have no bias. Dropped.
- The noise level never changes, so what the time embedding makes of it (shift, scale and gate of every normalisation)
  is constant. Shift and scale become the affine part of the normalisation, gates go into the projection before them.
- The padding mask is zero: the patch embedding's columns for it are dropped.
- Of a causal 3-D convolution only the last temporal tap sees the first frame: there it is a 2-D convolution. For the
  frames after it, the three taps are one 2-D convolution of three times as many channels.
- Normalisations over channels, which lie last in memory here, are one kernel; no image is widened to float32 for them.
- Nearest-neighbour upsampling copies values: it needs no detour through float32.

Decoding only the current frame's latent, which saves temporal networks most, is how `CosmosNetwork` itself works.
"""

from __future__ import annotations

import copy
import math
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm, WanUpsample
from diffusers.models.embeddings import apply_rotary_emb
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from harmonizer_ns.enhancers.cosmos.network import CosmosNetwork

Layer = TypeVar("Layer", bound=nn.Module)
NORM_EPS = 1e-24
"""Of the mean square, where diffusers has 1e-12 for the length of a pixel's channels: only zeros notice either."""
Rotations = tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]
"""Cosines and sines of the rotary position embedding."""


@torch.no_grad()
def cut_network(network: CosmosNetwork) -> CosmosNetwork:
    """A copy for inference with every cut made; ``network`` stays as it is.

    Raises:
        ValueError: when the transformer is of a kind that cannot be cut.
    """
    transformer, joint = network.transformer, bool(network.max_context) and not network.cached_context
    replaced = {**_fixed_layers(transformer, network.time), **_image_layers(network.vae, joint)}
    cut = copy.deepcopy(network, memo={id(layer): cheaper for layer, cheaper in replaced.items()})
    cut.transformer.register_to_config(concat_padding_mask=False)
    nn.Module.to(cut.transformer, transformer.proj_out.weight.dtype)  # diffusers' own warns about nothing
    return cut.eval().requires_grad_(False)


def _fixed_layers(transformer: Any, time: float) -> dict[nn.Module, nn.Module]:
    """What takes the place of a ``CosmosTransformer3DModel``'s layers, for one flow time ``t`` and zero text."""
    config = transformer.config
    if config["use_crossattn_projection"] or config["img_context_dim_in"] or config["extra_pos_embed_type"]:
        raise ValueError("only transformers of Cosmos 2.0's text-to-image kind can be cut")
    condition = _time_condition(transformer, time)
    columns = config["in_channels"] * math.prod(config["patch_size"])
    return {
        transformer.patch_embed.proj: _linear(transformer.patch_embed.proj.weight[:, :columns]),
        transformer.time_embed: NoTime(),
        transformer.norm_out: _fixed_norm(transformer.norm_out, condition)[0],
        **{block: FixedBlock(block, condition) for block in transformer.transformer_blocks},
    }


def _image_layers(vae: nn.Module, joint: bool) -> dict[nn.Module, nn.Module]:
    """What takes the place of an autoencoder's layers; its encoder sees clips if ``joint``, its decoder never does."""
    replaced: dict[nn.Module, nn.Module] = {}
    for name, layer in vae.named_modules():
        keep_video = joint and not name.startswith("decoder.")
        if isinstance(layer, WanUpsample):
            replaced[layer] = nn.Upsample(scale_factor=layer.scale_factor, mode=layer.mode)
        elif isinstance(layer, WanRMS_norm):
            replaced[layer] = ChannelNorm(layer)
        elif isinstance(layer, WanCausalConv3d) and not name.endswith(".time_conv"):
            replaced[layer] = FrameConvolution(layer, keep_video)
        elif isinstance(layer, WanCausalConv3d) and not keep_video:
            replaced[layer] = nn.Identity()  # never called on single frames
    return replaced


class NoTime(nn.Module):
    """Stands in a time embedding's place where nothing is conditioned on the time any more."""

    def forward(self, *_: Tensor) -> tuple[None, None]:
        """No condition."""
        return None, None


class FixedNorm(nn.LayerNorm):
    """An adaptive normalisation with its shift and scale built in."""

    def forward(self, tokens: Float[Tensor, "b n c"], *_: None) -> Float[Tensor, "b n c"]:
        """Normalise, whatever the time."""
        return super().forward(tokens)


class FixedBlock(nn.Module):
    """Self-attention and feed-forward layer of a ``CosmosTransformerBlock``, modulations built in."""

    def __init__(self, block: Any, condition: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        attention, layers = block.attn1, block.ff.net
        self.heads = attention.heads
        self.norm1, gate = _fixed_norm(block.norm1, condition)
        self.to_qkv = _linear(torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight]))
        self.norm_q, self.norm_k = (
            _filled(nn.RMSNorm(norm.weight.shape, eps=norm.eps, device="meta"), norm.weight)
            for norm in (attention.norm_q, attention.norm_k)
        )
        self.to_out = _linear(_gated(gate, attention.to_out[0].weight))
        self.norm2, gate = _fixed_norm(block.norm3, condition)
        self.expand = _linear(layers[0].proj.weight)
        self.shrink = _linear(_gated(gate, layers[2].weight))

    def forward(self, tokens: Float[Tensor, "b n c"], *given: Any) -> Float[Tensor, "b n c"]:
        """One residual attention and one residual feed-forward step.

        Of what diffusers gives a block besides (text, the time twice, rotations, masks), only the rotations matter.
        """
        rotations: Rotations = given[3]
        tokens = tokens + self.to_out(self._attend(self.norm1(tokens), rotations))
        return tokens + self.shrink(F.gelu(self.expand(self.norm2(tokens))))

    def _attend(self, tokens: Float[Tensor, "b n c"], rotations: Rotations) -> Float[Tensor, "b n c"]:
        query, key, value = self.to_qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = (_rotate(norm(x), rotations) for norm, x in ((self.norm_q, query), (self.norm_k, key)))
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class ChannelNorm(nn.Module):
    """A ``WanRMS_norm``, ``g x / rms(x)`` over the channels, in one kernel that reads and writes channels last."""

    def __init__(self, norm: WanRMS_norm) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.gamma.flatten().clone())

    def forward(self, x: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """Normalise every pixel."""
        return F.rms_norm(x.movedim(1, -1), self.weight.shape, self.weight, NORM_EPS).movedim(-1, 1)


class FrameConvolution(nn.Module):
    """A ``WanCausalConv3d`` made of 2-D convolutions.

    The first frame has no past: only the last temporal tap counts. Later frames are joined with their two
    predecessors along the channels; 2-D convolutions with more channels are faster than 3-D ones.

    Args:
        convolution: the 3-D convolution, without temporal stride.
        keep_video: whether it must also work on frames with a past.
    """

    def __init__(self, convolution: WanCausalConv3d, keep_video: bool) -> None:
        super().__init__()
        weight = convolution.weight
        self.taps = weight.shape[2]
        self.image = _convolution(weight[:, :, -1], convolution.bias)
        joined = weight.transpose(1, 2).flatten(1, 2)
        self.clip = _convolution(joined, convolution.bias) if keep_video and self.taps > 1 else None

    def forward(
        self, x: Float[Tensor, "b c t h w"], cache_x: Float[Tensor, "b c s h w"] | None = None
    ) -> Float[Tensor, "b d t h w"]:
        """Convolve; ``cache_x`` holds the frames before."""
        if self.taps == 1 or (cache_x is None and x.shape[2] == 1):
            return _unfold(self.image(_fold(x)), x)
        if self.clip is None:
            raise ValueError(f"a network cut for single frames got {x.shape[2]} frames")
        past = x[:, :, :0] if cache_x is None else cache_x
        missing = self.taps - 1 - past.shape[2]
        before = [past] if not missing else [torch.zeros_like(x[:, :, :1]).expand(-1, -1, missing, -1, -1), past]
        frames = torch.cat([*before, x], dim=2)
        shifted = [_fold(frames[:, :, tap : tap + x.shape[2]]) for tap in range(self.taps)]
        return _unfold(self.clip(torch.cat(shifted, dim=1)), x)


def _fold(clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "bt c h w"]:
    return clip.transpose(1, 2).flatten(0, 1)


def _unfold(frames: Float[Tensor, "bt d h w"], like: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
    return frames.unflatten(0, (like.shape[0], -1)).transpose(1, 2)


def _time_condition(transformer: Any, time: float) -> tuple[Tensor, Tensor]:
    """The time embedding's two outputs, in float32."""
    embed = copy.deepcopy(transformer.time_embed).float()
    like = next(embed.parameters()).new_zeros(1)
    shared, embedded = embed(like, like + time)
    return shared[0], embedded[0]


def _fixed_norm(norm: Any, condition: tuple[Tensor, Tensor]) -> tuple[Any, ...]:
    """An adaptive normalisation with shift and scale built in and, if it has one, its gate; in float32."""
    shared, embedded = condition
    low = F.linear(F.silu(embedded), norm.linear_1.weight.float())
    values = F.linear(low, norm.linear_2.weight.float())
    shape = norm.norm.normalized_shape
    shift, scale, *gate = (values + shared[: len(values)]).split(shape[0])
    fixed = FixedNorm(shape, eps=norm.norm.eps, device="meta")
    return _filled(fixed, 1 + scale, shift), *gate


def _gated(gate: Float[Tensor, " c"], weight: Float[Tensor, "c d"]) -> Float[Tensor, "c d"]:
    return (gate[:, None] * weight.float()).to(weight.dtype)


def _linear(weight: Float[Tensor, "o i"]) -> nn.Linear:
    return _filled(nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta"), weight)


def _convolution(weight: Float[Tensor, "o i kh kw"], bias: Tensor | None) -> nn.Conv2d:
    outputs, inputs, *size = weight.shape
    return _filled(nn.Conv2d(inputs, outputs, tuple(size), padding="same", device="meta"), weight, bias)  # type: ignore


def _filled(layer: Layer, weight: Tensor, bias: Tensor | None = None) -> Layer:
    """The layer itself, with weights of its own in place of what it had."""
    layer.weight = nn.Parameter(weight.clone())
    layer.register_parameter("bias", None if bias is None else nn.Parameter(bias.clone()))
    return layer


def _rotate(x: Float[Tensor, "b heads n d"], rotations: Rotations) -> Float[Tensor, "b heads n d"]:
    rotate: Any = apply_rotary_emb  # annotated as if it took and gave something else
    return rotate(x, rotations, use_real=True, use_real_unbind_dim=-2)
