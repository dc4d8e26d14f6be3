# SPDX-License-Identifier: Apache-2.0
"""Difix: SD-Turbo as a one-step image repairer (Wu et al., CVPR 2025).

With the latent ``z`` of the damaged image, the network's noise estimate ``eps`` and ``a = alphas_cumprod[t]``:

    x0 = (z - sqrt(1 - a) eps(z, t)) / sqrt(a)        (one step from t = 199, no noise is added)

The decoder also sees the encoder: the input of its up block ``i`` gets the input of the mirrored down block through a
1x1 convolution ``skip_conv_i``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from jaxtyping import Float
from torch import Tensor, nn

from harmonizer_ns.enhancers.difix.attention import Layout, ReferenceMixing
from harmonizer_ns.enhancers.difix.temporal import add_temporal_layers
from harmonizer_ns.enhancers.one_step import OneStepNetwork, own_arguments
from harmonizer_ns.errors import InputError

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""Its noise schedule."""
PROMPT = "remove degradation"
SKIP_INIT = 1e-5
"""First value of every weight of the skip convolutions."""
SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
"""What of a diffusers scheduler's configuration matters to one step in closed form."""

Skips = list[Float[Tensor, "b c h w"]]
"""Inputs of the encoder's down blocks, the finest first."""


class DifixNetwork(OneStepNetwork):
    """Repairs an image, with reference photos and the network's own previous outputs when it knows how to use these.

    Args:
        unet: arguments of diffusers' ``UNet2DConditionModel``.
        vae: arguments of diffusers' ``AutoencoderKL``.
        scheduler: the noise schedule, in diffusers' names; Stable Diffusion's by default.
        timestep: noise level that the input counts as.
        max_references: reference photos that it is meant to see; more are possible, as no weights depend on it.
        max_context: previous outputs that it looks at; 0 for a single-frame network without temporal layers.
        prompt_tokens: length of the embedded prompt, whose embedding is one of the weights.

    Raises:
        InputError: on numbers that do not fit together.
    """

    architecture = "difix"
    backbone = "unet"
    prompt_embedding: Float[Tensor, "1 m d"]

    def __init__(
        self,
        unet: dict[str, Any],
        vae: dict[str, Any],
        scheduler: dict[str, Any] | None = None,
        timestep: int = 199,
        max_references: int = 1,
        max_context: int = 0,
        prompt_tokens: int = 77,
    ) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**unet)
        self.vae = AutoencoderKL(**vae)
        with torch.device("cpu"):  # a table, not weights, also when the network is built on the meta device
            schedule = DDPMScheduler(**{**STABLE_DIFFUSION, **(scheduler or {})})
        self.scheduler = {name: schedule.config[name] for name in SCHEDULE}
        self.alphas = schedule.alphas_cumprod.tolist()
        self.timestep, self.max_references, self.max_context = timestep, max_references, max_context
        self._check_arguments()
        self.unet.set_attn_processor(ReferenceMixing())  # type: ignore[arg-type]
        add_skip_convolutions(self.vae)
        if max_context:
            add_temporal_layers(self.unet)
        width = self.unet.config["cross_attention_dim"]
        self.register_buffer("prompt_embedding", torch.randn(1, prompt_tokens, width))
        self.skip_dropout = 0.0
        """Share of an image's skip connections that are cut in training."""

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build such a network again, JSON values."""
        return {
            "timestep": self.timestep,
            "max_references": self.max_references,
            "max_context": self.max_context,
            "prompt_tokens": self.prompt_embedding.shape[1],
            "scheduler": self.scheduler,
            "unet": own_arguments(UNet2DConditionModel, self.unet.config),
            "vae": own_arguments(AutoencoderKL, self.vae.config),
        }

    @property
    def multiple(self) -> int:
        """Both sides of an image must be multiples of this: pixels of a latent's pixel."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def alpha(self) -> float:
        """``alphas_cumprod`` at the timestep: the share of signal in the input's variance."""
        return self.alphas[self.timestep]

    def forward(
        self,
        image: Float[Tensor, "b 3 h w"],
        references: Float[Tensor, "b r 3 h w"] | None = None,
        context: Float[Tensor, "b k 3 h w"] | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Repair images in [-1, 1]; the result is not clamped.

        Args:
            image: what to repair; sides are multiples of `multiple`.
            references: real photos, in any order.
            context: previous outputs, newest first, at most `max_context`.

        Raises:
            ValueError: on too much context, or a size that does not fit.
        """
        self.check_images(image, context)
        return self.repair(image, self.encode_all(references), self.encode_all(context))

    def repair(
        self,
        image: Float[Tensor, "b 3 h w"],
        references: Float[Tensor, "b r c hl wl"] | None = None,
        context: Float[Tensor, "b k c hl wl"] | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """As `forward`, for references and context of which only the latents are left."""
        latent, skips = self.encode(image)
        return self.decode(self.denoise(latent, references, context), skips)

    def latents(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c hl wl"]:
        """Scaled latents, for `repair`."""
        return self.encode(images)[0]

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b c hl wl"], Skips]:
        """Scaled latents (the mode, not a sample), and what the decoder will see of the encoder."""
        encoder, skips = self.vae.encoder, []
        features = encoder.conv_in(image)
        for block in encoder.down_blocks:
            skips.append(features)
            features = self.checkpointed(block, features)
        features = self.checkpointed(encoder.mid_block, features)
        moments = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(features)))
        if self.vae.quant_conv is not None:
            moments = self.vae.quant_conv(moments)
        return moments.chunk(2, dim=1)[0] * self.vae.config["scaling_factor"], skips

    def encode_all(self, images: Float[Tensor, "b v 3 h w"] | None) -> Float[Tensor, "b v c hl wl"] | None:
        """Scaled latents of several images for each view; None of none."""
        if images is None or not images.shape[1]:
            return None
        return self.latents(images.flatten(0, 1)).unflatten(0, images.shape[:2])

    def denoise(
        self,
        latent: Float[Tensor, "b c hl wl"],
        references: Float[Tensor, "b r c hl wl"] | None = None,
        context: Float[Tensor, "b k c hl wl"] | None = None,
    ) -> Float[Tensor, "b c hl wl"]:
        """The one step, in closed form."""
        parts = [part for part in (references, latent[:, None], context) if part is not None]
        images = torch.cat(parts, dim=1)
        layout = Layout(0 if references is None else references.shape[1], 0 if context is None else context.shape[1])
        noise = self.unet(
            images.flatten(0, 1),
            torch.full((1,), self.timestep, device=images.device),
            encoder_hidden_states=self.prompt_embedding.expand(images.shape[0] * images.shape[1], -1, -1),
            cross_attention_kwargs={"layout": layout},
            return_dict=False,
        )[0].view_as(images)[:, layout.references]
        return (latent - math.sqrt(1 - self.alpha) * noise) / math.sqrt(self.alpha)

    def decode(self, latent: Float[Tensor, "b c hl wl"], skips: Skips) -> Float[Tensor, "b 3 h w"]:
        """Images of scaled latents, about in [-1, 1]."""
        decoder, latent = self.vae.decoder, latent / self.vae.config["scaling_factor"]
        if self.vae.post_quant_conv is not None:
            latent = self.vae.post_quant_conv(latent)
        features = self.checkpointed(decoder.mid_block, decoder.conv_in(latent))
        for i, (block, skip) in enumerate(zip(decoder.up_blocks, reversed(skips), strict=True), start=1):
            features = features + self._cut(getattr(decoder, f"skip_conv_{i}")(skip))
            features = self.checkpointed(block, features)
        return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(features)))

    def _cut(self, skip: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """In training, nothing in place of some images' skip connection."""
        if not (self.training and self.skip_dropout):
            return skip
        return skip * (torch.rand(skip.shape[0], 1, 1, 1, device=skip.device) >= self.skip_dropout)

    def _check_arguments(self) -> None:
        if not 0 <= self.timestep < len(self.alphas):
            raise InputError(f"timestep should be from 0 to {len(self.alphas) - 1}, it is {self.timestep}")
        if self.scheduler["prediction_type"] != "epsilon":
            raise InputError(f"Difix estimates noise ('epsilon'), not {self.scheduler['prediction_type']!r}")
        if min(self.max_references, self.max_context) < 0:
            raise InputError(
                f"there cannot be {self.max_references} references and {self.max_context} frames of context"
            )


def add_skip_convolutions(vae: AutoencoderKL) -> None:
    """Give this one autoencoder's decoder ``skip_conv_1`` .. ``skip_conv_n``, from the coarsest level on."""
    downward = [vae.encoder.conv_in.out_channels, *vae.config["block_out_channels"][:-1]]
    upward = [vae.config["block_out_channels"][-1], *vae.config["block_out_channels"][:0:-1]]
    for i, (channels, target) in enumerate(zip(reversed(downward), upward, strict=True), start=1):
        convolution = nn.Conv2d(channels, target, 1, bias=False)
        nn.init.constant_(convolution.weight, SKIP_INIT)
        vae.decoder.add_module(f"skip_conv_{i}", convolution)
