# SPDX-License-Identifier: Apache-2.0
"""The Cosmos network in the graph of the release, which the benchmark compares with."""

from __future__ import annotations

import torch
from accelerate import init_empty_weights
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.cosmos.network import CosmosNetwork

TEXT_TOKENS = 512


class PlainCosmosNetwork(CosmosNetwork):
    """Attends to all tokens of the empty text and decodes the latents of the context too."""

    @classmethod
    def of(cls, network: CosmosNetwork) -> PlainCosmosNetwork:
        """A network of its own with the same weights."""
        with init_empty_weights():
            plain = cls.from_config(network.config)
        plain.load_state_dict({name: value.clone() for name, value in network.state_dict().items()}, assign=True)
        return plain.eval()  # type: ignore[return-value]

    def denoise(self, latents: Float[Tensor, "b c t hl wl"]) -> Float[Tensor, "b c t hl wl"]:
        """The one step, at every frame."""
        batch, scaled = latents.shape[0], (1 - self.time) * latents
        velocity = self.transformer(
            scaled,
            timestep=torch.full((batch,), self.time, device=latents.device),
            encoder_hidden_states=latents.new_zeros(batch, TEXT_TOKENS, self.transformer.config["text_embed_dim"]),
            padding_mask=latents.new_zeros(1, 1, *latents.shape[-2:]),
            return_dict=False,
        )[0]
        return scaled - self.time * velocity

    def decode(self, latent: Float[Tensor, "b c t hl wl"]) -> Float[Tensor, "b 3 h w"]:
        """Decode everything, return the first image."""
        mean, std = self._statistics(latent)
        return self.vae.decode(latent * std[..., None] + mean[..., None], return_dict=False)[0][:, :, 0]
