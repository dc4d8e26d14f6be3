# SPDX-License-Identifier: Apache-2.0
"""A Cosmos network's autoencoder tile by tile. The transformer always sees the whole frame."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.cosmos.network import CosmosNetwork
from harmonizer_ns.enhancers.tiles import Window, blend, scaled


def tile_autoencoder(network: CosmosNetwork, side: int) -> None:
    """Let this one network encode and decode in tiles.

    Args:
        network: is changed in place, until it is built or copied anew.
        side: of a tile, in pixels.
    """
    scale = network.multiple // network.transformer.config["patch_size"][1]
    encode, encode_jointly, decode = network.encode, network.encode_jointly, network.decode
    latent_side = side // scale

    def encode_tiles(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c hl wl"]:
        def tile(window: Window) -> Tensor:
            return encode(image[(..., *scaled(window, scale))])

        return blend(tile, image.shape[-2] // scale, image.shape[-1] // scale, latent_side)

    def encode_clip_tiles(
        image: Float[Tensor, "b 3 h w"], context: Float[Tensor, "b k 3 h w"]
    ) -> Float[Tensor, "b c t hl wl"]:
        def tile(window: Window) -> Tensor:
            place = (..., *scaled(window, scale))
            return encode_jointly(image[place], context[place])

        return blend(tile, image.shape[-2] // scale, image.shape[-1] // scale, latent_side)

    def decode_tiles(latent: Float[Tensor, "b c hl wl"]) -> Float[Tensor, "b 3 h w"]:
        return blend(
            lambda window: decode(latent[(..., *window)]), latent.shape[-2], latent.shape[-1], latent_side, scale
        )

    network.encode, network.encode_jointly, network.decode = encode_tiles, encode_clip_tiles, decode_tiles
