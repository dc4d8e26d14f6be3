# SPDX-License-Identifier: Apache-2.0
"""The Difix enhancer: one-step repair of renders, with real photos as references, and previous outputs if temporal."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.enhancers.checkpoint import (
    CONFIG,
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from harmonizer_ns.enhancers.difix_formats import WEIGHTS, find_folder, read_checkpoint, read_folder, write_folder
from harmonizer_ns.enhancers.difix_lora import merged
from harmonizer_ns.enhancers.difix_network import ARCHITECTURE, PROMPT, DifixNetwork, own_arguments
from harmonizer_ns.enhancers.difix_tiles import ThriftyDifix
from harmonizer_ns.enhancers.files import as_frames
from harmonizer_ns.enhancers.reading import read_json, read_weights
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import Padding, resize, to_float, to_uint8
from harmonizer_ns.types import Frames

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

LICENCE = "licence of where they come from (nvidia/difix, nvidia/difix_ref: NVIDIA License, non-commercial use only)"
MIN_TILE = 64
REFERENCES = {"nvidia/difix": 0, "nvidia/difix_ref": 1}
"""Photos that the released networks were trained with."""


class DifixEnhancer:
    """Repairs frames with a Difix network in one step.

    It makes no estimate of its own how right it is: the confidence is 1 everywhere, and whoever uses the result decides
    with a gate of their own.

    Args:
        network: used as it is, on the device where it is.
        metadata: what its checkpoint says about data, licence and training.
        batch: most frames repaired at once.
        tile: side in pixels of the tiles in which the autoencoder works; 0: whole frames.
        tiny_decoder: a diffusers ``AutoencoderTiny`` for Stable Diffusion that decodes instead of the autoencoder: it
            is faster, but without the skip connections fine detail is lost.
        compiled: compile the network, for every image size anew; with CUDA graphs on a GPU.
    """

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
        if batch < 1 or (tile and tile < MIN_TILE):
            raise InputError(f"a batch has at least 1 frame and a tile {MIN_TILE} pixels: got {batch} and {tile}")
        self.network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.metadata = metadata or {}
        self.batch, self.tiny_decoder = batch, tiny_decoder
        self._repair = ThriftyDifix(network, tile, tiny_decoder) if tile or tiny_decoder else network
        self._compiled = compiled
        if compiled:
            mode = "reduce-overhead" if torch.cuda.is_available() else "default"
            self._repair = torch.compile(self._repair, mode=mode, dynamic=False)

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
        **options: Any,
    ) -> DifixEnhancer:
        """Load one of our folders, a folder in the Hub's layout, or a repository of the Hub. No code in them is run.

        Args:
            folder_or_id: a folder, ``"nvidia/difix"`` or ``"nvidia/difix_ref"``.
            revision: of the Hub's repository.
            checkpoint: a ``model_*.pkl`` of Difix's training code, whose weights take the place of the folder's.
            device: where to run.
            dtype: precision to run in; by default bfloat16 on a GPU, float32 elsewhere.
            max_references: reference photos to look at; by default as many as the network was trained with, 1 when
                that is not known.
            prompt: what the network is told (our own folders have its embedding already).
            merge: fold the autoencoder's adapters into its weights (in our own folders they are).
            tiny_decoder: folder of an ``AutoencoderTiny``.
            options: ``batch``, ``tile`` and ``compiled`` of the class.

        Raises:
            CheckpointError: on a folder or file that is not such a network, or is damaged, and on a pickle with more
                than plain data in it.
            InputError: when the Hub cannot be reached or has no such repository.
        """
        folder = find_folder(folder_or_id, revision)
        if checkpoint is not None:
            network, metadata = read_checkpoint(Path(checkpoint), folder, prompt, merge), _origin(checkpoint)
        elif (folder / CONFIG).is_file():
            network, metadata = _read_own(folder)
        else:
            trained_with = REFERENCES.get(str(folder_or_id), 1)
            network = read_folder(folder, prompt, merge, max_references=trained_with)
            metadata = _origin(folder_or_id)
        if max_references is not None:
            network.max_references = max_references
        if "licence" in metadata:
            logger.warning("%s: these weights are under the %s", folder_or_id, metadata["licence"])
        tiny = None if tiny_decoder is None else _read_tiny_decoder(Path(tiny_decoder))
        dtype = dtype or (torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32)
        return cls(network, metadata, tiny_decoder=tiny, **options).to(device, dtype)

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
        """Move what runs; returns itself."""
        self.network.to(device, dtype)
        if self.tiny_decoder is not None:
            self.tiny_decoder.to(device, dtype)
        return self

    @torch.inference_mode()
    def enhance(self, frames: Frames, context: Context = Context()) -> Repaired:
        """Repair a batch of frames of any size.

        Frames are padded, never stretched. Photos and previous outputs of another size are made to fit.

        Raises:
            ValueError: when the context holds another number of references or previous outputs than there are frames.
        """
        padding = Padding.to_multiple(frames.cameras.height, frames.cameras.width, self.network.multiple)
        images = self._prepared(frames.rgb, padding)
        photos = self._photos(frames, context.references, images)
        outputs = context.history[: self.max_context]
        previous = [self._prepared(_in_size_of(frames, output), padding) for output in outputs]
        history = torch.stack(previous, dim=1) if previous else None
        repaired = torch.empty_like(frames.rgb, dtype=torch.float32)
        for chosen in _batches([len(found) for found in photos], self.batch):
            if self._compiled:
                torch.compiler.cudagraph_mark_step_begin()
            references = torch.stack([photos[i] for i in chosen])
            output = self._repair(images[chosen], references, None if history is None else history[chosen])
            repaired[chosen] = (padding.undo(output).float() / 2 + 0.5).clamp(0, 1).to(repaired.device)
        return Repaired(repaired, torch.ones_like(repaired[:, :1]))

    def __call__(
        self, image: Image | list[Image], ref_image: Image | list[Image | None] | None = None
    ) -> Image | list[Image]:
        """Repair PIL images.

        Args:
            image: one, or several, of any sizes.
            ref_image: a reference photo for all of them, or a list with one (or None) for each.

        Raises:
            InputError: when there are as many references as images in neither of these ways, or none are looked at.
        """
        images = image if isinstance(image, list) else [image]
        references = ref_image if isinstance(ref_image, list) else [ref_image] * len(images)
        if len(references) != len(images):
            raise InputError(f"there are {len(references)} reference images for {len(images)} images")
        if not self.max_references and any(reference is not None for reference in references):
            raise InputError("this network was not trained with references; load it with max_references=1 to try")
        repaired = [self._repair_image(*pair) for pair in zip(images, references, strict=True)]
        return repaired if isinstance(image, list) else repaired[0]

    def _repair_image(self, image: Image, reference: Image | None) -> Image:
        photos = None if reference is None else as_frames(_pixels(reference))
        repaired = self.enhance(as_frames(_pixels(image)), Context(references=(photos,)))
        return _picture(repaired.rgb[0])

    def _prepared(self, rgb: Float[Tensor, "n 3 h w"], padding: Padding) -> Float[Tensor, "n 3 hp wp"]:
        """From [0, 1] to [-1, 1], padded, where and in which precision the network runs."""
        weight = self.network.prompt_embedding
        return padding.apply(rgb.to(weight.device) * 2 - 1).to(weight.dtype)

    def _photos(
        self, frames: Frames, references: tuple[Frames | None, ...], like: Float[Tensor, "n 3 hp wp"]
    ) -> list[Float[Tensor, "r 3 hp wp"]]:
        """The photos that the network looks at for each frame, prepared; frames may have differently many."""
        references = references or (None,) * len(frames)
        if len(references) != len(frames):
            raise ValueError(f"Context.references has {len(references)} entries for {len(frames)} frames")
        height, width = frames.cameras.height, frames.cameras.width
        return [
            like[:0]
            if found is None or not len(found) or not self.max_references
            else self._prepared(*fit(found.rgb[: self.max_references], height, width, like))
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


def _in_size_of(frames: Frames, output: Frames) -> Float[Tensor, "n 3 h w"]:
    if len(output) != len(frames):
        raise ValueError(f"Context.history has {len(output)} frames for {len(frames)} frames")
    return resize(output.rgb, frames.cameras.height, frames.cameras.width)


def _read_own(folder: Path) -> tuple[DifixNetwork, dict[str, Any]]:
    """Network and metadata of a folder in our own format."""
    stored = load_checkpoint(folder)
    try:
        with torch.device("meta"):
            network = DifixNetwork.from_config({"architecture": stored.architecture, **stored.kwargs})
    except InputError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    load_weights(network, stored.weights, assign=True)
    return network, stored.metadata


def _read_tiny_decoder(folder: Path) -> Any:
    """A diffusers ``AutoencoderTiny``, from its folder."""
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    tiny = AutoencoderTiny(**own_arguments(AutoencoderTiny, read_json(folder / CONFIG)))
    load_weights(tiny, read_weights(folder, WEIGHTS))
    return tiny.eval()


def _origin(source: str | Path) -> dict[str, Any]:
    return {"licence": LICENCE, "source": str(source)}


def _pixels(image: Image) -> Float[Tensor, "3 h w"]:
    return to_float(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))


def _picture(rgb: Float[Tensor, "3 h w"]) -> Image:
    from PIL import Image as Pillow

    return Pillow.fromarray(to_uint8(rgb).permute(1, 2, 0).cpu().numpy())
