# SPDX-License-Identifier: Apache-2.0
"""The Difix enhancer: one-step repair of renders, with real photos as references, and previous outputs if temporal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.enhancers.checkpoint import Checkpoint, save_checkpoint
from harmonizer_ns.enhancers.difix.formats import find_folder, write_folder
from harmonizer_ns.enhancers.difix.loading import load_network
from harmonizer_ns.enhancers.difix.lora import merged
from harmonizer_ns.enhancers.difix.network import ARCHITECTURE, PROMPT, DifixNetwork
from harmonizer_ns.enhancers.difix.tiled import ThriftyDifix, check_tiny_decoder, read_tiny_decoder
from harmonizer_ns.enhancers.images import repair_image
from harmonizer_ns.enhancers.latent_cache import KeptLatents
from harmonizer_ns.enhancers.precision import (
    check_tile,
    compile_mode,
    default_dtype,
    finished,
    fully_trusted,
    in_size_of,
    prepared,
    say_licence,
)
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import Padding, resize
from harmonizer_ns.types import Frames

if TYPE_CHECKING:
    from PIL.Image import Image


class DifixEnhancer:
    """Repairs frames with a Difix network in one step.

    It makes no estimate of its own how right it is: the confidence is 1 everywhere, and whoever uses the result decides
    with a gate of their own. Reference photos and previous outputs that are shown again are not encoded again.

    Args:
        network: used as it is, on the device where it is.
        metadata: what its checkpoint says about data, licence and training.
        batch: most frames repaired at once.
        tile: side in pixels of the tiles in which the autoencoder works; 0: whole frames.
        tiny_decoder: a diffusers ``AutoencoderTiny`` for Stable Diffusion that decodes instead of the autoencoder: it
            is faster, but without the skip connections fine detail is lost.
        compiled: compile the network, for every image size anew; with CUDA graphs on a GPU.
    """

    needs_geometry = False

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
        check_tile(tile)
        check_tiny_decoder(tiny_decoder, network)
        self.network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.metadata = metadata or {}
        self.batch, self.tiny_decoder = batch, tiny_decoder
        self._own_precision = True
        runs = ThriftyDifix(network, tile, tiny_decoder) if tile or tiny_decoder else network
        ready: Any = partial(torch.compile, mode=compile_mode(), dynamic=False) if compiled else _as_it_is
        self._encode, self._repair, self._compiled = ready(runs.latents), ready(runs.repair), compiled
        self._kept = KeptLatents()

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
        merge: bool = True,
        tiny_decoder: str | Path | None = None,
        batch: int = 4,
        tile: int = 0,
        compiled: bool = False,
    ) -> DifixEnhancer:
        """Load one of our folders, a folder in the Hub's layout, or a repository of the Hub. No code in them is run.

        Args:
            folder_or_id: a folder, ``"nvidia/difix"`` or ``"nvidia/difix_ref"``.
            revision: of the Hub's repository.
            checkpoint: a ``model_*.pkl`` of Difix's training code, whose weights take the place of the folder's.
            device: where to run.
            dtype: precision to run in; by default bfloat16 on a GPU, float32 elsewhere, wherever it moves later.
            max_references: reference photos to look at; by default as many as the network was trained with, 1 when
                that is not known.
            prompt: what the network is told (our own folders have its embedding already).
            merge: fold the autoencoder's adapters into its weights (in our own folders they are).
            tiny_decoder: folder or Hub repository of an ``AutoencoderTiny``, for example ``"madebyollin/taesd"``.
            batch: see the class.
            tile: see the class.
            compiled: see the class.

        Raises:
            CheckpointError: on a folder or file that is not such a network, or is damaged, and on a pickle with more
                than plain data in it.
            InputError: when the Hub cannot be reached or has no such repository.
        """
        network, metadata = load_network(folder_or_id, revision, checkpoint, prompt, merge)
        if max_references is not None:
            network.max_references = max_references
        say_licence(folder_or_id, metadata)
        tiny = None if tiny_decoder is None else read_tiny_decoder(tiny_decoder)
        enhancer = cls(network, metadata, batch=batch, tile=tile, tiny_decoder=tiny, compiled=compiled)
        enhancer._own_precision = False
        return enhancer.to(device, dtype)

    @classmethod
    def from_pkl(cls, path: str | Path, base: str | Path, **arguments: Any) -> DifixEnhancer:
        """Load a ``model_*.pkl``; what it lacks comes from ``base``, SD-Turbo or Difix. See `from_pretrained`."""
        return cls.from_pretrained(base, checkpoint=path, **arguments)

    @property
    def max_references(self) -> int:
        """Photos that it looks at, the first ones of each frame."""
        return self.network.max_references

    @property
    def max_context(self) -> int:
        """Previous outputs that it looks at, when there are so many."""
        return self.network.max_context

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint folder that `from_pretrained` reads: all that it takes, adapters merged."""
        config = self.network.config
        kwargs = {name: value for name, value in config.items() if name != "architecture"}
        state = merged(self.network.state_dict())
        save_checkpoint(folder, Checkpoint(ARCHITECTURE, kwargs, state, self.metadata))

    def save_hub_layout(self, folder: str | Path, base: str | Path) -> None:
        """Write a folder in the released models' layout.

        Args:
            folder: where to.
            base: a folder in that layout or a Hub id: text encoder, tokenizer and scheduler come from there.

        Raises:
            InputError: when the network is temporal.
        """
        write_folder(self.network, Path(folder), find_folder(base))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> DifixEnhancer:
        """Move what runs; returns itself.

        Args:
            device: where to.
            dtype: precision to run in from now on. By default that of the network that the class was given, or the
                device's own after `from_pretrained` without any.
        """
        self._own_precision = self._own_precision or dtype is not None
        if not self._own_precision:
            dtype = default_dtype(device)
        self.network.to(device, dtype)
        if self.tiny_decoder is not None:
            torch.nn.Module.to(self.tiny_decoder, device, dtype)  # diffusers' own warns about nothing
        self._kept.clear()
        return self

    @torch.inference_mode()
    def enhance(self, frames: Frames, context: Context = Context()) -> Repaired:
        """Repair a batch of frames of any size.

        Frames are padded, never stretched. Photos and previous outputs of another size are made to fit.

        Raises:
            ValueError: when the context holds another number of references or previous outputs than there are frames.
        """
        padding = Padding.to_multiple(frames.cameras.height, frames.cameras.width, self.network.multiple)
        images = prepared(frames.rgb, padding, self.network.prompt_embedding)
        if self._compiled:
            torch.compiler.cudagraph_mark_step_begin()
        photos = self._photo_latents(frames, context.photos(frames), images)
        previous = [
            self._output_latents(frames, output, padding, images)
            for output in context.outputs(frames, self.max_context)
        ]
        history = torch.stack(previous, dim=1) if previous else None
        repaired = torch.empty_like(frames.rgb, dtype=torch.float32)
        for chosen in _batches([0 if found is None else len(found) for found in photos], self.batch):
            if self._compiled:
                torch.compiler.cudagraph_mark_step_begin()
            shown = [found for i in chosen if (found := photos[i]) is not None]
            references = torch.stack(shown) if shown else None
            output = self._repair(images[chosen], references, None if history is None else history[chosen])
            repaired[chosen] = finished(output, padding, repaired)
        return fully_trusted(repaired)

    def __call__(
        self, image: Image | list[Image], ref_image: Image | list[Image | None] | None = None
    ) -> Image | list[Image]:
        """Repair PIL images: `repair_image`."""
        return repair_image(self, image, ref_image)

    def _photo_latents(
        self, frames: Frames, references: Sequence[Frames | None], padded: Float[Tensor, "n 3 hp wp"]
    ) -> list[Float[Tensor, "r c hl wl"] | None]:
        """Latents of the photos that the network looks at, for each frame; frames may have differently many."""
        size, count = (frames.cameras.height, frames.cameras.width), self.max_references

        def encode(photos: Frames) -> Float[Tensor, "r c hl wl"]:
            return self._encode(prepared(*fit(photos.rgb[:count], *size, padded), padded))

        return [
            None if not count or not found else self._kept.of(found.rgb, (size, count), partial(encode, found))
            for found in references
        ]

    def _output_latents(
        self, frames: Frames, output: Frames, padding: Padding, padded: Float[Tensor, "n 3 hp wp"]
    ) -> Float[Tensor, "n c hl wl"]:
        """Latents of a previous output of each frame."""
        rgb = in_size_of(frames, output)
        return self._kept.of(output.rgb, rgb.shape, lambda: self._encode(prepared(rgb, padding, padded)))


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


def _as_it_is(step: Any) -> Any:
    return step


def _batches(kinds: list[int], most: int) -> list[list[int]]:
    """Indices in groups of one kind, at most so many in each."""
    groups = [[i for i, other in enumerate(kinds) if other == kind] for kind in sorted(set(kinds))]
    return [group[start : start + most] for group in groups for start in range(0, len(group), most)]
