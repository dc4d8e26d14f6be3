# SPDX-License-Identifier: Apache-2.0
"""The built-in enhancer: warps reference photos and the previous output into the view, then mixes per pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harmonizer_ns import devices
from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.enhancers.builtin.inputs import BuiltinInputs, gather_inputs
from harmonizer_ns.enhancers.builtin.network import MULTIPLE, BuiltinNetwork
from harmonizer_ns.enhancers.checkpoint import FILES, load_checkpoint
from harmonizer_ns.files import asset, find_folder
from harmonizer_ns.images import Padding
from harmonizer_ns.types import Frames


class BuiltinEnhancer:
    """Repairs frames by mixing the render, smoother versions of it, warped reference photos and previous output.

    The confidence is the network's estimate of the probability that a pixel's absolute error, averaged over the
    colours, is below 0.05.

    Args:
        network: used as it is, on the device where it is.
        metadata: what its checkpoint says about data, licence and training.
        compiled: compile the network, for every image size and number of photos anew; with CUDA graphs on a GPU.
    """

    max_references = 3
    max_context = 1
    needs_geometry = True
    errors_repeat = True

    def __init__(
        self, network: BuiltinNetwork, metadata: dict[str, Any] | None = None, *, compiled: bool = False
    ) -> None:
        self.network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.metadata = metadata or {}
        self._choose = devices.compiled(self.network) if compiled else self.network

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path | None = None,
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        compiled: bool = False,
    ) -> BuiltinEnhancer:
        """Load a checkpoint folder, here or on the Hub; None gives the weights that ship with the project.

        Args:
            folder_or_id: a folder or a Hub repository.
            revision: of the Hub's repository.
            device: where to run.
            dtype: precision to run in; by default that of the weights, float32, on every device.
            compiled: see the class.

        Raises:
            FileNotFoundError: when the packaged weights are not installed.
            InputError: when the folder is not a good checkpoint of this architecture, and when the Hub cannot be
                reached or has no such repository.
        """
        folder = asset("builtin") if folder_or_id is None else find_folder(folder_or_id, FILES, revision)
        checkpoint = load_checkpoint(folder)
        network = BuiltinNetwork.from_checkpoint(checkpoint)
        return cls(network, checkpoint.metadata, compiled=compiled).to(
            device, dtype or next(network.parameters()).dtype
        )

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint folder that `from_pretrained` reads."""
        self.network.save(folder, self.metadata)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> BuiltinEnhancer:
        """Move the network, and change its precision if one is given; returns itself."""
        self.network.to(device, dtype)
        return self

    @torch.inference_mode()
    def enhance(self, frames: Frames, context: Context = Context()) -> Repaired:
        """Repair a batch of frames of any size.

        Raises:
            ValueError: when the context holds another number of references or previous outputs than there are frames.
        """
        return self.repair(gather_inputs(frames, context, self.max_references), context.learning)

    @torch.inference_mode()
    def repair(self, inputs: BuiltinInputs, learned: bool = False) -> Repaired:
        """Repair frames of any size whose candidates are warped already.

        Args:
            inputs: of `gather_inputs`.
            learned: the repair is learned from, not looked at.
        """
        device, (height, width) = inputs.render.device, inputs.render.shape[-2:]
        padding, like = Padding.to_multiple(height, width, MULTIPLE), next(self.network.parameters())
        choice = self._choose(inputs.padded(padding).to(like.device, like.dtype), learned=learned)
        return Repaired(
            rgb=padding.undo(choice.rgb).float().clamp(0, 1).to(device),
            confidence=padding.undo(choice.confidence).float().sigmoid().to(device),
        )
