# SPDX-License-Identifier: Apache-2.0
"""The Cosmos enhancers: Fixer (single frames) and Harmonizer (with its own last outputs as context)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from jaxtyping import Float
from torch import Tensor, nn

from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.enhancers.checkpoint import (
    CONFIG,
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from harmonizer_ns.enhancers.cosmos.cuts import cut_network
from harmonizer_ns.enhancers.cosmos.formats import RELEASES, convert, read_release
from harmonizer_ns.enhancers.cosmos.network import ARCHITECTURE, CosmosNetwork
from harmonizer_ns.enhancers.cosmos.tiles import tile_autoencoder
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
from harmonizer_ns.files import fetch_repository
from harmonizer_ns.images import Padding
from harmonizer_ns.types import Frames


class CosmosEnhancer:
    """Repairs frames with a Cosmos network in one step; no references.

    It makes no estimate of its own how right it is: the confidence is 1 everywhere.

    Args:
        network: used as it is, on the device where it is.
        metadata: what its checkpoint says about data, licence and training.
        cut: run a copy of the network with the exact cuts of `cosmos_cuts`, which is faster; what the network learns
            later does not reach it.
        compiled: compile what runs (in place), for every image size anew; with CUDA graphs on a GPU.
        tile: side in pixels of the tiles in which the autoencoder works (set in what runs); 0: whole frames.
    """

    max_references = 0
    needs_geometry = False

    def __init__(
        self,
        network: CosmosNetwork,
        metadata: dict[str, Any] | None = None,
        cut: bool = False,
        compiled: bool = False,
        tile: int = 0,
    ) -> None:
        check_tile(tile)
        self.network = network
        self.metadata = metadata or {}
        self._running = _channels_last(cut_network(network)) if cut else network
        self._kept = KeptLatents()
        self._own_precision = True
        self._compiled = compiled
        if tile:
            tile_autoencoder(self._running, tile)
        if compiled:
            _compile(self._running)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        cut: bool = True,
        compiled: bool = False,
        tile: int = 0,
        revision: str | None = None,
    ) -> CosmosEnhancer:
        """Load one of our folders, a release's checkpoint file, or a release from the Hub.

        Args:
            folder_or_id: a folder, a ``.pkl`` or ``.pt`` file, ``"nvidia/Harmonizer"`` or ``"nvidia/Fixer"``.
            device: where to run.
            dtype: precision to run in; by default bfloat16 on a GPU, float32 elsewhere, wherever it moves later.
            cut: see the class.
            compiled: see the class.
            tile: see the class.
            revision: of the Hub's repository.

        Raises:
            CheckpointError: on a folder or file that is not such a network.
            InputError: when the Hub cannot be reached or has no such release.
        """
        checkpoint = _read(folder_or_id, revision)
        network = build_network(checkpoint)
        say_licence(folder_or_id, checkpoint.metadata)
        enhancer = cls(network, checkpoint.metadata, cut, compiled, tile)
        enhancer._own_precision = False
        return enhancer.to(device, dtype)

    @property
    def max_context(self) -> int:
        """Previous outputs that it looks at, when there are so many."""
        return self.network.max_context

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint folder that `from_pretrained` reads."""
        kwargs = {name: value for name, value in self.network.config.items() if name != "architecture"}
        save_checkpoint(folder, Checkpoint(ARCHITECTURE, kwargs, self.network.state_dict(), self.metadata))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> CosmosEnhancer:
        """Move what runs; returns itself.

        Args:
            device: where to.
            dtype: precision to run in from now on. By default that of the network that the class was given, or the
                device's own after `from_pretrained` without any.
        """
        self._own_precision = self._own_precision or dtype is not None
        if not self._own_precision:
            dtype = default_dtype(device)
        self._running.to(device, dtype)
        self._kept.clear()
        return self

    @torch.inference_mode()
    def enhance(self, frames: Frames, context: Context = Context()) -> Repaired:
        """Repair a batch of frames of any size; references are not looked at.

        Raises:
            ValueError: when a previous output has another number of frames.
            InputError: when the frames are larger than the network's position embedding.
        """
        padding = Padding.to_multiple(frames.cameras.height, frames.cameras.width, self.network.multiple)
        self._check_size(frames)
        image = self._prepared(frames.rgb, padding)
        history = context.outputs(frames, self.max_context)
        if self._compiled:
            torch.compiler.cudagraph_mark_step_begin()
        if len(history) < self.max_context or not history:
            repaired = self._running(image)
        elif self.network.cached_context:
            repaired = self._repair_with_kept(image, frames, history, padding)
        else:
            clip = torch.stack([self._prepared(in_size_of(frames, output), padding) for output in history], dim=1)
            repaired = self._running(image, context=clip)
        return fully_trusted(finished(repaired, padding, frames.rgb))

    def _repair_with_kept(
        self, image: Float[Tensor, "b 3 hp wp"], frames: Frames, history: tuple[Frames, ...], padding: Padding
    ) -> Float[Tensor, "b 3 hp wp"]:
        """As the network's own forward pass, but every previous output is encoded only once in its life."""
        kept = [self._output_latents(frames, output, padding) for output in history]
        return self._running.repair(torch.stack([self._running.encode(image), *kept], dim=2))

    def _output_latents(self, frames: Frames, output: Frames, padding: Padding) -> Float[Tensor, "b c hl wl"]:
        rgb = in_size_of(frames, output)
        return self._kept.of(output.rgb, rgb.shape, lambda: self._running.encode(self._prepared(rgb, padding)))

    def _prepared(self, rgb: Float[Tensor, "b 3 h w"], padding: Padding) -> Float[Tensor, "b 3 hp wp"]:
        return prepared(rgb, padding, next(self._running.parameters()))

    def _check_size(self, frames: Frames) -> None:
        height, width = frames.cameras.height, frames.cameras.width
        if max(height, width) > self.network.max_side:
            raise InputError(
                f"frames of {width}x{height} are too large for this enhancer: a side may have {self.network.max_side} "
                "pixels; render or resize them smaller"
            )


def build_network(checkpoint: Checkpoint) -> CosmosNetwork:
    """The network of a checkpoint, filled with its weights.

    Raises:
        CheckpointError: on another architecture, bad arguments or weights that do not fit.
    """
    try:
        with init_empty_weights():
            network = CosmosNetwork.from_config({"architecture": checkpoint.architecture, **checkpoint.kwargs})
    except InputError as error:
        raise CheckpointError(str(error)) from error
    load_weights(network, checkpoint.weights, assign=True)
    return network.eval()


def _read(folder_or_id: str | Path, revision: str | None) -> Checkpoint:
    path = Path(folder_or_id)
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise CheckpointError(f"{path} is not an enhancer's folder: it has no {CONFIG}")
        return load_checkpoint(path)
    if path.is_file():
        release = next((r for r in RELEASES.values() if r.file == path.name), RELEASES["nvidia/Harmonizer"])
        return convert(read_release(path), release.config, str(path))[0]
    name = str(folder_or_id)
    if name not in RELEASES:
        raise InputError(f"{name!r} is neither a folder, nor a file, nor one of {', '.join(RELEASES)} on the Hub")
    return convert(read_release(_download(name, revision)), RELEASES[name].config, name)[0]


def _download(repository: str, revision: str | None) -> Path:
    """The release's checkpoint file, from the Hub or from its cache."""
    file = RELEASES[repository].file
    folder = fetch_repository(repository, revision, [file, f"**/{file}"])
    found = next(folder.rglob(file), None)
    if found is None:
        raise InputError(f"{repository} on the Hugging Face Hub has no file {file}")
    return found


def _channels_last(network: CosmosNetwork) -> CosmosNetwork:
    """Convolutions read and write channels last, which is what fast kernels want: three times faster on a CPU too."""
    for module in network.vae.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _compile(network: CosmosNetwork) -> None:
    """Compile the three steps that forward passes are made of, in place."""
    for name in ("encode", "encode_jointly", "repair"):
        setattr(network, name, torch.compile(getattr(network, name), mode=compile_mode(), dynamic=False))
