# SPDX-License-Identifier: Apache-2.0
"""What the large one-step networks have in common: images in [-1, 1], padding, precision, kept latents, compiling."""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harmonizer_ns.devices import choose_dtype, compiled
from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.enhancers.checkpoint import StoredNetwork
from harmonizer_ns.enhancers.latent_cache import LatentCache
from harmonizer_ns.errors import InputError
from harmonizer_ns.finite import all_finite
from harmonizer_ns.images import Padding, resize
from harmonizer_ns.types import Frames

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

MIN_TILE = 64


class OneStepNetwork(StoredNetwork):
    """Repairs an image in one step, with reference photos and its own previous outputs as it takes them."""

    backbone: ClassVar[str]
    """Name of the submodule that denoises."""
    max_references: int
    """Reference photos that it is meant to see."""
    max_context: int
    """Previous outputs that it looks at; 0 for a single-frame network."""
    gradient_checkpointing = False

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Both sides of an image must be multiples of this."""

    def with_context(self, max_context: int) -> Self:
        """A copy that looks at so many previous outputs; layers that are new change nothing until they are trained."""
        wider = self.from_config({**self.config, "max_context": max_context})
        left_out = wider.load_state_dict(self.state_dict(), strict=False)
        if left_out.unexpected_keys:
            raise ValueError(f"a network without context has no place for {left_out.unexpected_keys[0]}")
        like = next(self.parameters())
        return wider.to(like.device, like.dtype)

    def enable_gradient_checkpointing(self) -> None:
        """Trade time for memory in training."""
        getattr(self, self.backbone).enable_gradient_checkpointing()
        self.gradient_checkpointing = True

    def checkpointed(self, block: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
        """A block of the autoencoder; what is inside is computed anew for gradients if that was asked for."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, features, use_reentrant=False)
        return block(features)

    def check_images(self, image: Float[Tensor, "b 3 h w"], context: Float[Tensor, "b k 3 h w"] | None) -> None:
        """Refuse what the network cannot take.

        Raises:
            ValueError: on too much context, or a size that does not fit.
        """
        height, width = image.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"the sides of a {width}x{height} image are not multiples of {self.multiple}")
        if context is not None and context.shape[1] > self.max_context:
            raise ValueError(f"this network looks at {self.max_context} previous outputs, got {context.shape[1]}")


def own_arguments(model: type[Any], config: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration are arguments of that diffusers model; the rest is diffusers' own or other versions'."""
    known = inspect.signature(model.__init__).parameters
    return {name: value for name, value in config.items() if name in known}


Network = TypeVar("Network", bound=nn.Module)


def channels_last(network: Network) -> Network:
    """Let 2-D convolutions read and write channels last, which is what fast kernels want: on a CPU too."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


class OneStepEnhancer(ABC):
    """Repairs frames with a large network in one step.

    It makes no estimate of its own how right it is: the confidence is 1 everywhere, and whoever uses the result decides
    with a gate of their own. Photos and previous outputs that are shown again are not encoded again.

    Args:
        network: used as it is, on the device where it is.
        metadata: what its checkpoint says about data, licence and training.
        tile: side in pixels of the tiles in which the autoencoder works; 0: whole frames.
        compiled: compile what runs, for every image size anew; with CUDA graphs on a GPU.

    Raises:
        InputError: on a tile that is too small.
    """

    needs_geometry = False
    errors_repeat = False

    def __init__(
        self, network: OneStepNetwork, metadata: dict[str, Any] | None = None, *, tile: int = 0, compiled: bool = False
    ) -> None:
        if tile and tile < MIN_TILE:
            raise InputError(f"a tile has at least {MIN_TILE} pixels (0: whole frames), not {tile}")
        self.network = network.eval()
        self.metadata = metadata or {}
        self.max_references, self.max_context = network.max_references, network.max_context
        self._compiled = compiled
        self._latents = LatentCache()
        self._precision_follows_device = False

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint folder that `from_pretrained` reads, with all that it takes."""
        self.network.save(folder, self.metadata)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move what runs; returns itself.

        Args:
            device: where to.
            dtype: precision to run in from now on. By default that of the network that the class was given, or the
                device's own after `from_pretrained` without any.
        """
        if dtype is not None:
            self._precision_follows_device = False
        elif self._precision_follows_device:
            dtype = choose_dtype("auto", device)
        for part in self._running():
            nn.Module.to(part, device, dtype)  # diffusers' own warns about nothing
        self._latents.clear()
        return self

    @torch.inference_mode()
    def enhance(self, frames: Frames, context: Context = Context()) -> Repaired:
        """Repair a batch of frames of any size.

        Frames are padded, never stretched. Photos and previous outputs of another size are made to fit.

        Raises:
            ValueError: when the context holds another number of references or previous outputs than there are frames.
            InputError: when the frames are larger than the network can take.
        """
        padding = Padding.to_multiple(frames.cameras.height, frames.cameras.width, self.network.multiple)
        self._begin_step()
        output = padding.undo(self._repaired(self._prepared(frames.rgb, padding), padding, frames, context))
        if output.dtype == torch.float16 and not all_finite([output]) and all_finite([frames.rgb]):
            self._widen()
            return self.enhance(frames, context)
        rgb = (output.float() / 2 + 0.5).clamp(0, 1).to(frames.rgb.device)
        return Repaired(rgb, torch.ones_like(rgb[:, :1]))

    def _widen(self) -> None:
        """Compute in float32 from now on: weights that learned in bfloat16 may make numbers too large for float16."""
        logger.warning("%s makes numbers too large for float16: it goes on in float32", type(self).__name__)
        self.to(next(self._running()[0].parameters()).device, torch.float32)

    @abstractmethod
    def _running(self) -> list[nn.Module]:
        """The modules that compute, the network (or what runs in its place) first."""

    @abstractmethod
    def _encode(self, images: Float[Tensor, "n 3 hp wp"]) -> Float[Tensor, "n c hl wl"]:
        """Latents of images in [-1, 1]."""

    @abstractmethod
    def _repaired(
        self, images: Float[Tensor, "n 3 hp wp"], padding: Padding, frames: Frames, context: Context
    ) -> Float[Tensor, "n 3 hp wp"]:
        """Repair padded images in [-1, 1]; ``frames`` are what they are made of."""

    def _loaded(self, source: str | Path, device: torch.device | str, dtype: torch.dtype | None) -> Self:
        """End `from_pretrained`: tell the licence, and move; without a ``dtype``, each device has its own."""
        if "licence" in self.metadata:
            logger.warning("%s: licence of these weights: %s", source, self.metadata["licence"])
        self._precision_follows_device = True
        return self.to(device, dtype)

    def _ready(self, step: Any) -> Any:
        """A step as it runs: compiled if that was asked for."""
        return compiled(step) if self._compiled else step

    def _begin_step(self) -> None:
        """Tell CUDA graphs that the outputs of the last step are not needed any more."""
        if self._compiled:
            torch.compiler.cudagraph_mark_step_begin()

    def _prepared(self, rgb: Float[Tensor, "n 3 h w"], padding: Padding) -> Float[Tensor, "n 3 hp wp"]:
        """From [0, 1] to [-1, 1], padded, on the device and in the precision of what runs."""
        like = next(self._running()[0].parameters())
        return padding.apply(rgb.to(like.device) * 2 - 1).to(like.dtype)

    def _in_size(self, frames: Frames, output: Frames) -> Float[Tensor, "n 3 h w"]:
        """A previous output in the frames' size; the very same tensor when it has that size already."""
        return resize(output.rgb, frames.cameras.height, frames.cameras.width)

    def _output_latents(self, frames: Frames, output: Frames, padding: Padding) -> Float[Tensor, "n c hl wl"]:
        """Latents of a previous output of each frame."""
        rgb = self._in_size(frames, output)
        return self._latents.of(output.rgb, rgb.shape, lambda: self._encode(self._prepared(rgb, padding)))
