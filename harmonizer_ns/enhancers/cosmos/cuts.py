# SPDX-License-Identifier: Apache-2.0
"""Exact cuts in the graph of a Cosmos network: the same outputs, less work, no retraining.

- Text that is zero makes cross-attention add exactly 0: keys, values and the output projection have no bias. Dropped.
- The noise level never changes, so what the time embedding makes of it (shift, scale and gate of every normalisation)
  is constant. Shift and scale become the affine part of the normalisation, gates go into the projection before them.
- The padding mask is zero: the patch embedding's columns for it are dropped.
- Of a causal 3-D convolution only the last temporal tap sees the first frame: there it is a 2-D convolution. For the
  frames after it, the three taps are one 2-D convolution of three times as many channels.
- Nearest-neighbour upsampling copies values: it needs no detour through float32.

Decoding only the current frame's latent, which saves temporal networks most, is how `CosmosNetwork` itself works.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample, WanUpsample
from diffusers.models.embeddings import apply_rotary_emb
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from harmonizer_ns.enhancers.cosmos.network import CosmosNetwork

Rotations = tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]
"""Cosines and sines of the rotary position embedding."""


@torch.no_grad()
def cut_network(network: CosmosNetwork) -> CosmosNetwork:
    """A copy for inference with every cut made; ``network`` stays as it is.

    Raises:
        ValueError: when the transformer is of a kind that cannot be cut.
    """
    fixed = FixedTransformer(network.transformer, network.time)
    cut = copy.deepcopy(network, memo={id(network.transformer): fixed})
    joint = bool(cut.max_context) and not cut.cached_context
    cut_convolutions(cut.vae.encoder, keep_video=joint)
    cut_convolutions(cut.vae.decoder, keep_video=False)
    cut_convolutions(cut.vae, keep_video=joint)
    cut_upsampling(cut.vae)
    return cut.eval().requires_grad_(False)


class FixedTransformer(nn.Module):
    """A ``CosmosTransformer3DModel`` for one flow time and zero text, with its call signature.

    Args:
        transformer: diffusers' model; its weights are copied.
        time: flow time ``t`` of the only step.

    Raises:
        ValueError: when the transformer has inputs that this one has not.
    """

    def __init__(self, transformer: Any, time: float) -> None:
        super().__init__()
        config = transformer.config
        if config["use_crossattn_projection"] or config["img_context_dim_in"] or config["extra_pos_embed_type"]:
            raise ValueError("only transformers of Cosmos 2.0's text-to-image kind can be cut")
        self.config = config
        self.patch_size = tuple(config["patch_size"])
        self.rope = copy.deepcopy(transformer.rope)
        columns = config["in_channels"] * self.patch_size[0] * self.patch_size[1] * self.patch_size[2]
        self.patch_embed = _linear(transformer.patch_embed.proj.weight[:, :columns])
        condition = _time_condition(transformer, time)
        self.blocks = nn.ModuleList(FixedBlock(block, condition) for block in transformer.transformer_blocks)
        shift, scale = _modulation(transformer.norm_out, condition, parts=2)
        self.norm_out = _affine_norm(shift, scale, transformer.norm_out.norm.eps)
        self.proj_out = _linear(transformer.proj_out.weight)
        self.to(transformer.proj_out.weight.dtype)

    def forward(self, hidden_states: Float[Tensor, "b c t h w"], **_fixed: object) -> tuple[Float[Tensor, "b c t h w"]]:
        """The velocity; time, text and padding mask are built in, so they are not looked at."""
        pt, ph, pw = self.patch_size
        b, _, t, h, w = hidden_states.shape
        grid = (t // pt, h // ph, w // pw)
        rotations = self.rope(hidden_states)
        patches = hidden_states.reshape(b, -1, grid[0], pt, grid[1], ph, grid[2], pw)
        tokens = self.patch_embed(patches.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3))
        for block in self.blocks:
            tokens = block(tokens, rotations)
        patches = self.proj_out(self.norm_out(tokens)).reshape(b, *grid, ph, pw, pt, -1)
        return (patches.permute(0, 7, 1, 6, 2, 4, 3, 5).reshape(b, -1, t, h, w),)


class FixedBlock(nn.Module):
    """Self-attention and feed-forward layer of a ``CosmosTransformerBlock``, modulations built in."""

    def __init__(self, block: Any, condition: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        attention, layers = block.attn1, block.ff.net
        shift, scale, gate = _modulation(block.norm1, condition, parts=3)
        self.heads = attention.heads
        self.norm1 = _affine_norm(shift, scale, block.norm1.norm.eps)
        self.to_qkv = _linear(torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight]))
        self.norm_q = _rms_norm(attention.norm_q)
        self.norm_k = _rms_norm(attention.norm_k)
        self.to_out = _linear(_gated(gate, attention.to_out[0].weight))
        shift, scale, gate = _modulation(block.norm3, condition, parts=3)
        self.norm2 = _affine_norm(shift, scale, block.norm3.norm.eps)
        self.expand = _linear(layers[0].proj.weight)
        self.shrink = _linear(_gated(gate, layers[2].weight))

    def forward(self, tokens: Float[Tensor, "b n c"], rotations: Rotations) -> Float[Tensor, "b n c"]:
        """One residual attention and one residual feed-forward step."""
        tokens = tokens + self.to_out(self._attend(self.norm1(tokens), rotations))
        return tokens + self.shrink(F.gelu(self.expand(self.norm2(tokens))))

    def _attend(self, tokens: Float[Tensor, "b n c"], rotations: Rotations) -> Float[Tensor, "b n c"]:
        query, key, value = self.to_qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = (_rotate(norm(x), rotations) for norm, x in ((self.norm_q, query), (self.norm_k, key)))
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


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
        padding = weight.shape[3] // 2, weight.shape[4] // 2  # frames keep their size
        self.taps = weight.shape[2]
        self.image = _convolution(weight[:, :, -1], convolution.bias, padding)
        joined = weight.transpose(1, 2).flatten(1, 2)
        self.clip = _convolution(joined, convolution.bias, padding) if keep_video and self.taps > 1 else None

    def forward(
        self, x: Float[Tensor, "b c t h w"], cache_x: Float[Tensor, "b c s h w"] | None = None
    ) -> Float[Tensor, "b d t h w"]:
        """Convolve; ``cache_x`` holds the frames before."""
        if self.taps == 1 or (cache_x is None and x.shape[2] == 1):
            return _unfold(self.image(_fold(x)), x)
        if self.clip is None:
            raise ValueError(f"a network cut for single frames got {x.shape[2]} frames")
        past = x[:, :, :0] if cache_x is None else cache_x
        missing = torch.zeros_like(x[:, :, :1]).expand(-1, -1, self.taps - 1 - past.shape[2], -1, -1)
        frames = torch.cat([missing, past, x], dim=2)
        shifted = [_fold(frames[:, :, tap : tap + x.shape[2]]) for tap in range(self.taps)]
        return _unfold(self.clip(torch.cat(shifted, dim=1)), x)


def cut_convolutions(module: nn.Module, keep_video: bool) -> None:
    """Replace the causal convolutions below ``module``, in place."""
    for name, child in module.named_children():
        if isinstance(child, WanResample):
            if not keep_video and hasattr(child, "time_conv"):
                child.add_module("time_conv", nn.Identity())  # never called on single frames
        elif isinstance(child, WanCausalConv3d):
            setattr(module, name, FrameConvolution(child, keep_video))
        elif not isinstance(child, FrameConvolution):
            cut_convolutions(child, keep_video)


def cut_upsampling(module: nn.Module) -> None:
    """Upsample in the numbers' own precision, in place."""
    for name, child in module.named_children():
        if isinstance(child, WanUpsample):
            setattr(module, name, nn.Upsample(scale_factor=child.scale_factor, mode=child.mode))
        else:
            cut_upsampling(child)


def _fold(clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "bt c h w"]:
    return clip.transpose(1, 2).flatten(0, 1)


def _unfold(frames: Float[Tensor, "bt d h w"], like: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
    return frames.unflatten(0, (like.shape[0], -1)).transpose(1, 2)


def _convolution(weight: Float[Tensor, "o i kh kw"], bias: Tensor | None, padding: tuple[int, int]) -> nn.Conv2d:
    out_channels, in_channels, height, width = weight.shape
    result = nn.Conv2d(in_channels, out_channels, (height, width), padding=padding, device="meta")
    result.weight = nn.Parameter(weight.clone())
    result.bias = None if bias is None else nn.Parameter(bias.clone())
    return result


def _time_condition(transformer: Any, time: float) -> tuple[Tensor, Tensor]:
    """The time embedding's two outputs, in float32."""
    embed = copy.deepcopy(transformer.time_embed).float()
    like = next(embed.parameters()).new_zeros(1)
    shared, embedded = embed(like, like + time)
    return shared[0], embedded[0]


def _modulation(norm: Any, condition: tuple[Tensor, Tensor], parts: int) -> tuple[Tensor, ...]:
    """Shift, scale and, with three parts, gate that an adaptive normalisation applies, in float32."""
    shared, embedded = condition
    low = F.linear(F.silu(embedded), norm.linear_1.weight.float())
    values = F.linear(low, norm.linear_2.weight.float())
    return (values + shared[: len(values)]).chunk(parts)


def _affine_norm(shift: Tensor, scale: Tensor, eps: float) -> nn.LayerNorm:
    norm = nn.LayerNorm(len(shift), eps=eps)
    norm.weight, norm.bias = nn.Parameter(1 + scale), nn.Parameter(shift.clone())
    return norm


def _rms_norm(norm: Any) -> nn.RMSNorm:
    result = nn.RMSNorm(norm.weight.shape[0], eps=norm.eps)
    result.weight = nn.Parameter(norm.weight.clone())
    return result


def _gated(gate: Float[Tensor, " c"], weight: Float[Tensor, "c d"]) -> Float[Tensor, "c d"]:
    return (gate[:, None] * weight.float()).to(weight.dtype)


def _linear(weight: Float[Tensor, "o i"]) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.clone())
    return linear


def _rotate(x: Float[Tensor, "b heads n d"], rotations: Rotations) -> Float[Tensor, "b heads n d"]:
    rotate: Any = apply_rotary_emb  # annotated as if it took and gave something else
    return rotate(x, rotations, use_real=True, use_real_unbind_dim=-2)
