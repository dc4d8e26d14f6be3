# SPDX-License-Identifier: Apache-2.0
"""The Cosmos enhancers: Fixer (single frames) and Harmonizer (with its own last outputs as context)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.cosmos.cuts import cut_network
from harmonizer_ns.enhancers.cosmos.formats import read_checkpoint
from harmonizer_ns.enhancers.cosmos.network import CosmosNetwork
from harmonizer_ns.enhancers.one_step import OneStepEnhancer, channels_last
from harmonizer_ns.enhancers.tiles import in_tiles
from harmonizer_ns.images import Padding
from harmonizer_ns.types import Frames


class CosmosEnhancer(OneStepEnhancer):
    """Repairs frames with a Cosmos network, with its own last outputs once there are enough; no references.

    Args:
        network: used as it is, on the device where it is.
        metadata: what its checkpoint says about data, licence and training.
        cut: run a copy of the network with the exact cuts of `cuts`, which is faster; what the network learns later
            does not reach it.
        tile: side in pixels of the tiles in which the autoencoder works (set in what runs); 0: whole frames.
        compiled: compile what runs (in place), for every image size anew; with CUDA graphs on a GPU.

    Raises:
        InputError: on a tile that is too small.
    """

    network: CosmosNetwork

    def __init__(
        self,
        network: CosmosNetwork,
        metadata: dict[str, Any] | None = None,
        *,
        cut: bool = False,
        tile: int = 0,
        compiled: bool = False,
    ) -> None:
        super().__init__(network, metadata, tile=tile, compiled=compiled)
        self._runs = channels_last(cut_network(network)) if cut else network
        if tile:
            tile_autoencoder(self._runs, tile)
        if compiled:
            for step in ("encode", "encode_jointly", "repair"):  # what forward passes are made of
                setattr(self._runs, step, self._ready(getattr(self._runs, step)))

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path,
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        cut: bool = True,
        tile: int = 0,
        compiled: bool = False,
    ) -> CosmosEnhancer:
        """Load one of our folders, a release's checkpoint file, or a repository of the Hub.

        Args:
            folder_or_id: a folder, a ``.pkl`` or ``.pt`` file, ``"nvidia/Harmonizer"`` or ``"nvidia/Fixer"``, or a
                repository that holds one of our folders.
            revision: of the Hub's repository.
            device: where to run.
            dtype: precision to run in; by default each device's own, see `choose_dtype`, wherever it moves later.
            cut: see the class.
            tile: see the class.
            compiled: see the class.

        Raises:
            InputError: on a folder or file that is not such a network, and when the Hub cannot be reached or has no
                such repository.
        """
        checkpoint = read_checkpoint(folder_or_id, revision)
        network = CosmosNetwork.from_checkpoint(checkpoint)
        enhancer = cls(network, checkpoint.metadata, cut=cut, tile=tile, compiled=compiled)
        return enhancer._loaded(folder_or_id, device, dtype)

    def _running(self) -> list[nn.Module]:
        return [self._runs]

    def _encode(self, images: Float[Tensor, "n 3 hp wp"]) -> Float[Tensor, "n c hl wl"]:
        return self._runs.encode(images)

    def _repaired(
        self, images: Float[Tensor, "n 3 hp wp"], padding: Padding, frames: Frames, context: Context
    ) -> Float[Tensor, "n 3 hp wp"]:
        """With cached context every previous output is encoded only once in its life."""
        self.network.check_side(frames.cameras.height, frames.cameras.width)
        history = context.outputs(frames, self.max_context)
        if len(history) < self.max_context or not history:
            return self._runs(images)
        if self.network.cached_context:
            kept = [self._output_latents(frames, output, padding) for output in history]
            return self._runs.repair(torch.stack([self._encode(images), *kept], dim=2))
        clip = torch.stack([self._prepared(self._in_size(frames, output), padding) for output in history], dim=1)
        return self._runs(images, context=clip)


def tile_autoencoder(network: CosmosNetwork, tile: int) -> None:
    """Let this one network encode and decode in tiles of so many pixels; the transformer always sees the whole."""
    scale = network.multiple // network.transformer.config["patch_size"][1]
    side = tile // scale
    network.encode = in_tiles(network.encode, side, (scale,))
    network.encode_jointly = in_tiles(network.encode_jointly, side, (scale, scale))
    network.decode = in_tiles(network.decode, side, (1,), scale)
