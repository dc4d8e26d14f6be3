# SPDX-License-Identifier: Apache-2.0
"""Difix's autoencoder tile by tile, or with a smaller decoder. The UNet always sees the whole frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.checkpoint import CONFIG, load_weights, read_model
from harmonizer_ns.enhancers.difix.formats import WEIGHTS
from harmonizer_ns.enhancers.difix.network import DifixNetwork
from harmonizer_ns.enhancers.one_step import own_arguments
from harmonizer_ns.enhancers.tiles import in_tiles
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import find_folder, read_json


class TiledDifix:
    """Runs a network as its own forward pass does, but the autoencoder in tiles, or with a smaller decoder.

    Args:
        network: the network.
        side: of a tile, in pixels; 0 for whole frames.
        tiny_decoder: a diffusers ``AutoencoderTiny`` that decodes in place of the network's decoder; None: that one.

    Raises:
        InputError: on a decoder for latents of another number of channels.
    """

    def __init__(self, network: DifixNetwork, side: int = 0, tiny_decoder: Any = None) -> None:
        if tiny_decoder is not None:
            theirs, ours = tiny_decoder.config["latent_channels"], network.vae.config["latent_channels"]
            if theirs != ours:
                raise InputError(f"the tiny decoder is for latents of {theirs} channels, this network's have {ours}")
        scale, self.network, self.tiny_decoder = network.multiple, network, tiny_decoder
        self.latents = in_tiles(network.latents, side // scale or None, (scale,))
        self._decode = in_tiles(self._decoded, side // scale or None, (1, scale), scale)

    def repair(
        self,
        image: Float[Tensor, "b 3 h w"],
        references: Float[Tensor, "b r c hl wl"] | None = None,
        context: Float[Tensor, "b k c hl wl"] | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Repair images in [-1, 1], given the latents of references and context; the result is not clamped."""
        return self._decode(self.network.denoise(self.latents(image), references, context), image)

    def _decoded(self, latent: Float[Tensor, "b c hl wl"], image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The encoder runs once more on each tile: keeping what it passes on would fill the memory that tiles save."""
        if self.tiny_decoder is not None:
            return self.tiny_decoder.decode(latent, return_dict=False)[0]
        return self.network.decode(latent, self.network.encode(image)[1])


def read_tiny_decoder(folder_or_id: str | Path) -> Any:
    """A diffusers ``AutoencoderTiny``, from its folder or from the Hub.

    Raises:
        InputError: when it is another model, damaged, or neither a folder nor a repository that can be reached.
    """
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    folder = find_folder(folder_or_id, [CONFIG, f"{WEIGHTS}.safetensors"])
    config = read_json(folder / CONFIG)
    name = config.get("_class_name")
    if name != AutoencoderTiny.__name__:
        raise InputError(f"{folder} is a folder of another model: {name}, not AutoencoderTiny")
    tiny = AutoencoderTiny(**own_arguments(AutoencoderTiny, config))
    load_weights(tiny, read_model(folder, WEIGHTS), folder)
    return tiny.eval()
