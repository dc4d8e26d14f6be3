# SPDX-License-Identifier: Apache-2.0
"""The Difix enhancer: one-step repair of renders, with real photos as references, and previous outputs if temporal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.difix.formats import read_checkpoint
from harmonizer_ns.enhancers.difix.network import PROMPT, DifixNetwork
from harmonizer_ns.enhancers.difix.tiled import TiledDifix, read_tiny_decoder
from harmonizer_ns.enhancers.one_step import OneStepEnhancer, channels_last
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import Padding, resize
from harmonizer_ns.types import Frames


class DifixEnhancer(OneStepEnhancer):
    """Repairs frames with a Difix network, with the first photos of each and its own last outputs if it is temporal.

    Args:
        network: used as it is, on the device where it is.
        metadata: what its checkpoint says about data, licence and training.
        batch: most frames repaired at once.
        tile: side in pixels of the tiles in which the autoencoder works; 0: whole frames.
        tiny_decoder: a diffusers ``AutoencoderTiny`` for Stable Diffusion that decodes instead of the autoencoder: it
            is faster, but without the skip connections fine detail is lost.
        compiled: compile the network, for every image size anew; with CUDA graphs on a GPU.

    Raises:
        InputError: on an empty batch, a tile that is too small, and a decoder for other latents.
    """

    network: DifixNetwork

    def __init__(
        self,
        network: DifixNetwork,
        metadata: dict[str, Any] | None = None,
        *,
        batch: int = 4,
        tile: int = 0,
        tiny_decoder: Any = None,
        compiled: bool = False,
    ) -> None:
        if batch < 1:
            raise InputError(f"a batch has at least 1 frame, not {batch}")
        super().__init__(network, metadata, tile=tile, compiled=compiled)
        channels_last(network)
        self.batch, self.tiny_decoder = batch, tiny_decoder
        runs = TiledDifix(network, tile, tiny_decoder) if tile or tiny_decoder else network
        self._latents_of, self._repair = self._ready(runs.latents), self._ready(runs.repair)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path,
        *,
        revision: str | None = None,
        checkpoint: str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        max_references: int | None = None,
        prompt: str = PROMPT,
        tiny_decoder: str | Path | None = None,
        batch: int = 4,
        tile: int = 0,
        compiled: bool = False,
    ) -> DifixEnhancer:
        """Load one of our folders, a folder in the Hub's layout, or a repository of the Hub. No code in them is run.

        Args:
            folder_or_id: a folder, ``"nvidia/difix"`` or ``"nvidia/difix_ref"``.
            revision: of the Hub's repository.
            checkpoint: a ``model_*.pkl`` of Difix's training code; what it lacks comes from the folder, SD-Turbo or
                Difix.
            device: where to run.
            dtype: precision to run in; by default each device's own, see `choose_dtype`, wherever it moves later.
            max_references: reference photos to look at; by default as many as the network was trained with, 1 when
                that is not known.
            prompt: what the network is told (our own folders have its embedding already).
            tiny_decoder: folder or Hub repository of an ``AutoencoderTiny``, for example ``"madebyollin/taesd"``.
            batch: see the class.
            tile: see the class.
            compiled: see the class.

        Raises:
            InputError: on a folder or file that is not such a network, or is damaged, on a pickle with more than plain
                data in it, and when the Hub cannot be reached or has no such repository.
        """
        found = read_checkpoint(folder_or_id, revision, checkpoint, prompt)
        network = DifixNetwork.from_checkpoint(found)
        if max_references is not None:
            network.max_references = max_references
        tiny = None if tiny_decoder is None else read_tiny_decoder(tiny_decoder)
        enhancer = cls(network, found.metadata, batch=batch, tile=tile, tiny_decoder=tiny, compiled=compiled)
        return enhancer._loaded(folder_or_id, device, dtype)

    def _running(self) -> list[nn.Module]:
        return [self.network] if self.tiny_decoder is None else [self.network, self.tiny_decoder]

    def _encode(self, images: Float[Tensor, "n 3 hp wp"]) -> Float[Tensor, "n c hl wl"]:
        return self._latents_of(images)

    def _repaired(
        self, images: Float[Tensor, "n 3 hp wp"], padding: Padding, frames: Frames, context: Context
    ) -> Float[Tensor, "n 3 hp wp"]:
        """Frames with equally many photos go through together, at most ``batch`` of them."""
        photos = self._photo_latents(frames, context.photos(frames), images)
        outputs = context.outputs(frames, self.max_context)
        previous = [self._output_latents(frames, output, padding) for output in outputs]
        history = torch.stack(previous, dim=1) if previous else None
        repaired = torch.empty_like(images)
        for chosen in _batches([0 if found is None else len(found) for found in photos], self.batch):
            self._begin_step()
            shown = [found for i in chosen if (found := photos[i]) is not None]
            references = torch.stack(shown) if shown else None
            repaired[chosen] = self._repair(images[chosen], references, None if history is None else history[chosen])
        return repaired

    def _photo_latents(
        self, frames: Frames, references: Sequence[Frames | None], padded: Float[Tensor, "n 3 hp wp"]
    ) -> list[Float[Tensor, "r c hl wl"] | None]:
        """Latents of the photos that the network looks at, for each frame; frames may have differently many."""
        size, count = (frames.cameras.height, frames.cameras.width), self.max_references

        def encode(photos: Frames) -> Float[Tensor, "r c hl wl"]:
            return self._encode(self._prepared(*fit(photos.rgb[:count], *size, padded)))

        return [
            None if not count or not found else self._latents.of(found.rgb, (size, count), partial(encode, found))
            for found in references
        ]


def fit(
    photos: Float[Tensor, "r 3 hr wr"], height: int, width: int, padded: Float[Tensor, "n 3 hp wp"]
) -> tuple[Float[Tensor, "r 3 hs ws"], Padding]:
    """Photos resized to be as large as fits into a frame, aspect kept, and the padding to the frame's padded size.

    Args:
        photos: of any one size.
        height: of the frame.
        width: likewise.
        padded: has the frame's padded size.
    """
    scale = min(height / photos.shape[-2], width / photos.shape[-1])
    resized = resize(photos, *(max(1, round(scale * side)) for side in photos.shape[-2:]))
    return resized, Padding(padded.shape[-1] - resized.shape[-1], padded.shape[-2] - resized.shape[-2])


def _batches(kinds: list[int], most: int) -> list[list[int]]:
    """Indices in groups of one kind, at most so many in each."""
    groups = [[i for i, other in enumerate(kinds) if other == kind] for kind in sorted(set(kinds))]
    return [group[start : start + most] for group in groups for start in range(0, len(group), most)]
