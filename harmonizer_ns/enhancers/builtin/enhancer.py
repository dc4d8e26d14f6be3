# SPDX-License-Identifier: Apache-2.0
"""The built-in enhancer: warps reference photos and the previous output into the view, then mixes per pixel."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.enhancers.builtin.inputs import (
    CUE_STRIDE,
    CUES,
    BuiltinInputs,
    ray_cues,
    relative_inverse_depth,
)
from harmonizer_ns.enhancers.builtin.network import MULTIPLE, ChoiceNetwork
from harmonizer_ns.enhancers.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from harmonizer_ns.files import asset
from harmonizer_ns.images import Padding
from harmonizer_ns.types import Frames
from harmonizer_ns.warp import REFERENCE_TOLERANCE, backward_warp

ARCHITECTURE = "choice-smooth"
_RENAMED = {"eagerness": "bias_when_shown", "boldness": "bias_when_learned"}  # in older folders

Candidate = tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"], Float[Tensor, "2 h/4 w/4"]]
"""Colours warped into the view, validity, cues."""


_IMAGES = ("render", "alpha", "inverse_depth", "warps", "valid")


class BuiltinEnhancer:
    """Repairs frames by mixing the render, smoother versions of it, warped reference photos and previous output.

    The confidence is the network's estimate of the probability that a pixel's absolute error, averaged over the
    colours, is below 0.05.

    Args:
        network: a `ChoiceNetwork`; used as it is, on the device where it is.
        metadata: what its checkpoint says about data, licence and training.
    """

    max_references = 3
    max_context = 1
    needs_geometry = True

    def __init__(self, network: ChoiceNetwork, metadata: dict[str, Any] | None = None) -> None:
        self.network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.metadata = metadata or {}

    @classmethod
    def from_pretrained(
        cls, folder: str | Path | None = None, *, device: torch.device | str = "cpu"
    ) -> BuiltinEnhancer:
        """Load a checkpoint folder; None gives the weights that ship with the project.

        Raises:
            FileNotFoundError: when the packaged weights are not installed.
            CheckpointError: when the folder is not a good checkpoint of this architecture.
        """
        checkpoint = load_checkpoint(asset("builtin") if folder is None else folder)
        return cls(build_network(checkpoint), checkpoint.metadata).to(device)

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint folder that `from_pretrained` reads."""
        save_checkpoint(folder, Checkpoint(ARCHITECTURE, self.network.config, self.network.state_dict(), self.metadata))

    def to(self, device: torch.device | str) -> BuiltinEnhancer:
        """Move the network; returns itself."""
        self.network.to(device)
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
        padding = Padding.to_multiple(height, width, MULTIPLE)
        inputs = _to(inputs, next(self.network.parameters()).device)
        choice = self.network(_pad(inputs, padding), learned=learned)
        return Repaired(
            rgb=padding.undo(choice.rgb).clamp(0, 1).to(device),
            confidence=padding.undo(choice.confidence).sigmoid().to(device),
        )


def build_network(checkpoint: Checkpoint) -> ChoiceNetwork:
    """The network of a checkpoint, filled with its weights.

    Raises:
        CheckpointError: on another architecture, bad arguments or weights that do not fit.
    """
    if checkpoint.architecture != ARCHITECTURE:
        raise CheckpointError(
            f"the built-in enhancer has architecture {ARCHITECTURE!r}, not {checkpoint.architecture!r}"
        )
    try:
        network = ChoiceNetwork(**{_RENAMED.get(name, name): value for name, value in checkpoint.kwargs.items()})
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the network cannot be built from {checkpoint.kwargs}: {error}") from error
    load_weights(network, checkpoint.weights)
    return network


def gather_inputs(frames: Frames, context: Context, max_references: int) -> BuiltinInputs:
    """Warp whatever the context offers into the frames' views; frames with fewer candidates are filled up."""
    photos = context.photos(frames)
    seen = [_reference_candidates(frames[i], photos[i], max_references) for i in range(len(frames))]
    count = max([len(candidates) for candidates in seen], default=0)
    filled = [candidates + [_nothing(frames)] * (count - len(candidates)) for candidates in seen]
    previous = [one for output in context.outputs(frames, 1) for one in _previous_candidates(frames, output)]
    filled = [candidates + previous[i : i + 1] for i, candidates in enumerate(filled)]
    if not (count or previous):
        filled = [[_nothing(frames)] for _ in filled]
    warps, valid, cues = (torch.stack([torch.stack(part) for part in parts]) for parts in _transposed(filled))
    kinds = torch.zeros(warps.shape[:2], device=warps.device)
    kinds[:, count:] = float(bool(previous))
    inverse_depth = relative_inverse_depth(frames.depth)
    return BuiltinInputs(frames.rgb, frames.alpha, inverse_depth, warps, valid, cues, kinds)


def _transposed(candidates: list[list[Candidate]]) -> Any:
    """From frame -> candidate -> part to part -> frame -> candidate."""
    return [[[candidate[part] for candidate in frame] for frame in candidates] for part in range(3)]


def _reference_candidates(frame: Frames, references: Frames | None, limit: int) -> list[Candidate]:
    if references is None or not len(references) or not limit:
        return []
    references = references[slice(0, limit)].to(frame.rgb.device)
    count = len(references)
    cameras, depth = frame.cameras[[0] * count], frame.depth.expand(count, -1, -1, -1)
    warped = backward_warp(references, depth, cameras, REFERENCE_TOLERANCE)
    cues = ray_cues(depth, cameras, references.cameras.resized(cameras.width, cameras.height))
    return list(zip(warped.rgb, warped.valid, cues, strict=True))


def _previous_candidates(frames: Frames, previous: Frames) -> list[Candidate]:
    warped = backward_warp(previous.to(frames.rgb.device), frames.depth, frames.cameras)
    return list(zip(warped.rgb, warped.valid, _no_cues(frames), strict=True))


def _no_cues(frames: Frames) -> Float[Tensor, "n 2 h/4 w/4"]:
    return torch.zeros_like(frames.depth[..., ::CUE_STRIDE, ::CUE_STRIDE]).expand(-1, CUES, -1, -1)


def _nothing(frames: Frames) -> Candidate:
    empty = torch.zeros_like(frames.depth[0])
    return empty.expand(3, -1, -1), empty, _no_cues(frames)[0]


def _to(inputs: BuiltinInputs, device: torch.device) -> BuiltinInputs:
    return BuiltinInputs(*(getattr(inputs, field.name).to(device) for field in fields(inputs)))


def _pad(inputs: BuiltinInputs, padding: Padding) -> BuiltinInputs:
    """Pad every image; what is added is believed as little as its nearest pixel."""
    images = {name: padding.apply(getattr(inputs, name)) for name in _IMAGES}
    height, width = (side // CUE_STRIDE for side in images["render"].shape[-2:])
    cues = Padding(width - inputs.cues.shape[-1], height - inputs.cues.shape[-2]).apply(inputs.cues)
    return replace(inputs, cues=cues, **images)
