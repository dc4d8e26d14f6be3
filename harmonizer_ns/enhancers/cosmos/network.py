# SPDX-License-Identifier: Apache-2.0
"""The one-step Cosmos networks, from diffusers' transformer and causal video autoencoder.

*Fixer* repairs one frame by itself; *Harmonizer* also sees its own last ``K = 4`` outputs. With latents ``z`` of the
frames, the current one first, and ``t = sigma / (1 + sigma)``, the repaired latent is

    x0 = (1 - t) z - t net((1 - t) z, t)        (rectified flow in Cosmos' scaling, one step from sigma = 0.25)

at the current frame's place. The text is all zeros.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers import transformer_cosmos
from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.one_step import OneStepNetwork, own_arguments
from harmonizer_ns.errors import InputError

FRAMES_PER_LATENT = 4
"""Images that the autoencoder joins in one latent frame, all but the first image, which has one of its own."""
ATTENTION_NORM_EPS = 1e-6
"""As Cosmos was trained; diffusers builds the normalisations of queries and keys with 1e-5."""


class CosmosNetwork(OneStepNetwork):
    """Repairs an image given the network's own previous outputs.

    How it sees them is a property of its weights:

    - jointly (the released Harmonizer): ``[I_t, E_{t-1}, ..., E_{t-K}]`` goes through the causal autoencoder as one
      clip, which gives ``1 + K / 4`` latent frames. Everything after the first frame depends on ``I_t``, so nothing can
      be kept from one time step to the next;
    - ``cached_context``: every image is encoded by itself, which gives ``1 + K`` latent frames. A caller that keeps the
      latents of earlier outputs (`encode`, `repair`) encodes two images per time step, whatever ``K`` is.

    With fewer than ``K`` previous outputs both repair the frame by itself, as the released Harmonizer does in the first
    K frames of a clip; temporal training shows a network both kinds of input.

    Args:
        transformer: arguments of diffusers' ``CosmosTransformer3DModel``.
        vae: arguments of diffusers' ``AutoencoderKLWan``.
        max_context: K, previous outputs that it looks at; 0 for a single-frame network.
        sigma: noise level that the input counts as.
        cached_context: whether images are encoded one by one.

    Raises:
        InputError: on numbers that do not fit together.
    """

    architecture = "cosmos"
    backbone = "transformer"
    max_references = 0
    text_tokens = 1
    """Zero text gives the same in any length: attention averages zeros."""
    latents_mean: Float[Tensor, "c 1 1"]
    latents_std: Float[Tensor, "c 1 1"]

    def __init__(
        self,
        transformer: dict[str, Any],
        vae: dict[str, Any],
        max_context: int = 0,
        sigma: float = 0.25,
        cached_context: bool = False,
    ) -> None:
        super().__init__()
        if not sigma > 0:
            raise InputError(f"sigma should be positive, it is {sigma}")
        if max_context < 0 or (max_context % FRAMES_PER_LATENT and not cached_context):
            raise InputError(f"max_context should be a multiple of {FRAMES_PER_LATENT}, it is {max_context}")
        _spare_torchvision()
        self.transformer = CosmosTransformer3DModel(**transformer)
        self.vae = AutoencoderKLWan(**vae)
        if max_context and not cached_context and sum(self.vae.config["temperal_downsample"]) != 2:
            raise InputError("an autoencoder of joint context halves the time twice (temperal_downsample)")
        _set_attention_norms(self.transformer)
        for name in ("latents_mean", "latents_std"):
            values = torch.tensor(self.vae.config[name])[:, None, None]
            self.register_buffer(name, values, persistent=False)
        self.max_context = max_context
        self.sigma = sigma
        self.cached_context = cached_context

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build such a network again, JSON values."""
        return {
            "max_context": self.max_context,
            "sigma": self.sigma,
            "cached_context": self.cached_context,
            "transformer": own_arguments(CosmosTransformer3DModel, self.transformer.config),
            "vae": own_arguments(AutoencoderKLWan, self.vae.config),
        }

    @property
    def multiple(self) -> int:
        """Both sides of an image must be multiples of this."""
        downsamplings = len(self.vae.config["dim_mult"]) - 1
        return 2**downsamplings * self.transformer.config["patch_size"][1]

    @property
    def max_side(self) -> int:
        """Most pixels that either side of an image may have: its position embedding ends there."""
        return max(self.transformer.rope.max_size) * self.multiple

    @property
    def time(self) -> float:
        """Flow time ``t = sigma / (1 + sigma)`` of the one step."""
        return self.sigma / (1 + self.sigma)

    def forward(
        self,
        image: Float[Tensor, "b 3 h w"],
        references: Float[Tensor, "b r 3 h w"] | None = None,
        context: Float[Tensor, "b k 3 h w"] | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Repair images in [-1, 1]; the result is not clamped.

        Args:
            image: what to repair; sides are multiples of `multiple`.
            references: none; this network uses no reference photos.
            context: previous outputs, newest first, at most `max_context`.

        Raises:
            ValueError: on references, too much context, or a size that does not fit.
        """
        if references is not None and references.shape[1]:
            raise ValueError(f"Cosmos networks use no reference photos, got {references.shape[1]}")
        self.check_images(image, context)
        self.check_side(*image.shape[-2:])
        if context is None or not self.max_context or context.shape[1] < self.max_context:
            return self.repair(self.encode(image)[:, :, None])
        if self.cached_context:
            kept = self.encode(context.flatten(0, 1)).unflatten(0, context.shape[:2])
            return self.repair(torch.cat([self.encode(image)[:, None], kept], dim=1).transpose(1, 2))
        return self.repair(self.encode_jointly(image, context))

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c hl wl"]:
        """Latents of images encoded one by one, normalised."""
        moments = self.vae.quant_conv(self.vae.encoder(image[:, :, None]))
        return self._normalised(moments)[:, :, 0]

    def encode_jointly(
        self, image: Float[Tensor, "b 3 h w"], context: Float[Tensor, "b k 3 h w"]
    ) -> Float[Tensor, "b c t hl wl"]:
        """Latents of the clip ``[image, context]``, normalised, ``t = 1 + k / 4``; the image's latent comes first."""
        clip = torch.cat([image[:, None], context], dim=1).transpose(1, 2)
        seen: list[Tensor | None] = [None] * len(list(self.vae.encoder.modules()))  # what causal layers remember
        chunks = [clip[:, :, :1], *clip[:, :, 1:].split(FRAMES_PER_LATENT, dim=2)]
        encoded = [self.vae.encoder(chunk, feat_cache=seen, feat_idx=[0]) for chunk in chunks]
        return self._normalised(self.vae.quant_conv(torch.cat(encoded, dim=2)))

    def repair(self, latents: Float[Tensor, "b c t hl wl"]) -> Float[Tensor, "b 3 h w"]:
        """The repaired image whose latent comes first, from the latents of image and context, newest first."""
        return self.decode(self.denoise(latents))

    def denoise(self, latents: Float[Tensor, "b c t hl wl"]) -> Float[Tensor, "b c hl wl"]:
        """The one step, at the first frame."""
        scaled = (1 - self.time) * latents
        return scaled[:, :, 0] - self.time * self.velocity(scaled)[:, :, 0]

    def velocity(self, scaled: Float[Tensor, "b c t hl wl"]) -> Float[Tensor, "b c t hl wl"]:
        """``net((1 - t) z, t)``, given zero text."""
        batch = scaled.shape[0]
        return self.transformer(
            scaled,
            timestep=torch.full((batch,), self.time, device=scaled.device),
            encoder_hidden_states=scaled.new_zeros(batch, self.text_tokens, self.transformer.config["text_embed_dim"]),
            padding_mask=scaled.new_zeros(1, 1, *scaled.shape[-2:]),
            return_dict=False,
        )[0]

    def decode(self, latent: Float[Tensor, "b c hl wl"]) -> Float[Tensor, "b 3 h w"]:
        """Images of normalised latents, about in [-1, 1] (diffusers' own ``decode`` clamps, and so ends gradients)."""
        decoder = self.vae.decoder
        mean, std = self._statistics(latent)
        features = decoder.conv_in(self.vae.post_quant_conv((latent * std + mean)[:, :, None]))
        for block in (decoder.mid_block, *decoder.up_blocks):
            features = self.checkpointed(block, features)
        return decoder.conv_out(decoder.nonlinearity(decoder.norm_out(features)))[:, :, 0]

    def check_side(self, height: int, width: int) -> None:
        """Refuse images beyond `max_side`.

        Raises:
            InputError: telling the size and the limit.
        """
        if max(height, width) > self.max_side:
            raise InputError(
                f"frames of {width}x{height} are too large for this enhancer: a side may have {self.max_side} pixels; "
                "render or resize them smaller"
            )

    def _normalised(self, moments: Float[Tensor, "b 2c t hl wl"]) -> Float[Tensor, "b c t hl wl"]:
        mode = moments.chunk(2, dim=1)[0]
        mean, std = self._statistics(mode)
        return (mode - mean[..., None]) / std[..., None]

    def _statistics(self, like: Tensor) -> tuple[Float[Tensor, "c 1 1"], Float[Tensor, "c 1 1"]]:
        """Mean and standard deviation of latents, in the precision of ``like``."""
        return self.latents_mean.to(like.dtype), self.latents_std.to(like.dtype)


def _spare_torchvision() -> None:
    """Let diffusers run where torchvision is not installed, by which it resizes a mask; ours has its size already."""
    if not hasattr(transformer_cosmos, "transforms"):
        functional = SimpleNamespace(resize=lambda mask, size, interpolation: mask)
        modes = SimpleNamespace(NEAREST=None)
        transformer_cosmos.transforms = SimpleNamespace(functional=functional, InterpolationMode=modes)  # type: ignore


def _set_attention_norms(transformer: CosmosTransformer3DModel) -> None:
    for name, module in transformer.named_modules():
        if name.endswith((".norm_q", ".norm_k")):
            module.eps = ATTENTION_NORM_EPS  # type: ignore[assignment]
