# SPDX-License-Identifier: Apache-2.0
"""The built-in network is trained on views: pairs with everything warped into their image, once.

Photos, and the neighbouring frame of a clip as the previous output, are warped by `gather_inputs`, as the enhancer
warps them when it runs. Crops are cut afterwards, so that no photo ends where the crop ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Float16, UInt8
from torch import Tensor

from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.builtin.enhancer import BuiltinEnhancer, gather_inputs
from harmonizer_ns.enhancers.builtin.inputs import CUE_STRIDE, CUES, BuiltinInputs
from harmonizer_ns.images import to_float, to_uint8
from harmonizer_ns.loaded_pairs import LoadedPair, load_pair
from harmonizer_ns.metrics import better_half
from harmonizer_ns.pairs import Pair
from harmonizer_ns.types import Frames, cat_frames

REFERENCES = BuiltinEnhancer.max_references
SLOTS = REFERENCES + 1
"""Candidates of every batch: three references, then the previous output."""


@dataclass(frozen=True)
class WarpedView:
    """Holds a whole pair with its candidates warped into the view, compact in memory.

    Args:
        pair: where it comes from.
        render: the damaged image.
        target: what it should look like.
        alpha: of the render.
        inverse_depth: see `relative_inverse_depth`.
        good: the `better_half` of the render.
        warps: r references, best first; r is at most `REFERENCES`.
        valid: their validity.
        cues: their cues.
        previous: the neighbouring frame's truth and render.
        previous_valid: their validity, 0 without a neighbour.
    """

    pair: Pair
    render: UInt8[Tensor, "3 h w"]
    target: UInt8[Tensor, "3 h w"]
    alpha: UInt8[Tensor, "1 h w"]
    inverse_depth: Float16[Tensor, "1 h w"]
    good: Bool[Tensor, "1 h w"]
    warps: UInt8[Tensor, "r 3 h w"]
    valid: UInt8[Tensor, "r 1 h w"]
    cues: Float16[Tensor, "r 2 h/4 w/4"]
    previous: UInt8[Tensor, "2 3 h w"]
    previous_valid: UInt8[Tensor, "2 1 h w"]

    @property
    def nbytes(self) -> int:
        """Count the bytes of memory that it takes."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Tensor))


@dataclass(frozen=True)
class Batch:
    """Holds network input with its truth.

    Args:
        inputs: of the network.
        target: what the render should look like.
        good: the better half of the whole render.
        seeds: a random number of each item, for what a loss draws.
    """

    inputs: BuiltinInputs
    target: Float[Tensor, "n 3 h w"]
    good: Bool[Tensor, "n 1 h w"]
    seeds: tuple[int, ...]

    def changed(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Change every picture in it."""
        names = [f.name for f in fields(BuiltinInputs) if f.name != "is_previous"]
        inputs = replace(self.inputs, **{name: change(getattr(self.inputs, name)) for name in names})
        return replace(self, inputs=inputs, target=change(self.target), good=change(self.good))

    def to(self, device: torch.device | str) -> Batch:
        """Copy the batch to a device."""
        moved = self.changed(lambda value: value.to(device, non_blocking=True))
        return replace(moved, inputs=replace(moved.inputs, is_previous=self.inputs.is_previous.to(device)))

    def pin_memory(self) -> Batch:
        """Copy the pictures into memory from which a GPU copies without help; a `DataLoader` asks for it."""
        return self.changed(Tensor.pin_memory)


def warp_view(pair: Pair, neighbour: Pair | None = None) -> WarpedView:
    """Load a pair and warp its candidates; without depth and cameras it has none.

    Args:
        pair: the view.
        neighbour: a frame beside it, which stands for the previous output.
    """
    loaded = load_pair(pair, REFERENCES)
    render, references = loaded.render, loaded.references
    history = () if neighbour is None or not neighbour.has_geometry else (_truth_and_render(load_pair(neighbour)),)
    seen = gather_inputs(render, Context((references,)), REFERENCES)
    before = gather_inputs(cat_frames([render, render]), Context(history=history), 0)
    count = 0 if references is None else len(references)
    return WarpedView(
        pair=pair,
        render=to_uint8(render.rgb[0]),
        target=to_uint8(loaded.target[0]),
        alpha=to_uint8(render.alpha[0]),
        inverse_depth=seen.inverse_depth[0].half(),
        good=better_half(render.rgb, loaded.target)[0],
        warps=to_uint8(seen.warps[0, :count]),
        valid=to_uint8(seen.valid[0, :count]),
        cues=seen.cues[0, :count].half(),
        previous=to_uint8(before.warps[:, 0]),
        previous_valid=to_uint8(before.valid[:, 0]),
    )


def _truth_and_render(loaded: LoadedPair) -> Frames:
    return cat_frames([replace(loaded.render, rgb=loaded.target), loaded.render])


def show(
    view: WarpedView,
    references: Sequence[int] = range(REFERENCES),
    previous: float | None = None,
    window: tuple[slice, slice] | None = None,
    seed: int = 0,
) -> Batch:
    """Put together what the network sees of a view, as a batch of one; unused slots have validity 0.

    Args:
        view: a whole one.
        references: which of its references are shown; those that it has not are left out.
        previous: None without a previous output; else the share of truth in it, the rest is plain render.
        window: rows and columns, which begin at multiples of `CUE_STRIDE`; None shows all.
        seed: of the item.
    """
    rows, columns = window or (slice(0, view.render.shape[-2]), slice(0, view.render.shape[-1]))
    part = (..., rows, columns)
    cells = (..., *(slice(side.start // CUE_STRIDE, -(-side.stop // CUE_STRIDE)) for side in (rows, columns)))
    shown = [index for index in references if index < len(view.warps)]
    render, count = to_float(view.render[part])[None], len(shown)
    warps = torch.zeros_like(render).repeat(1, SLOTS, 1, 1, 1)
    valid = torch.zeros_like(warps[:, :, :1])
    cues = torch.zeros_like(valid[..., ::CUE_STRIDE, ::CUE_STRIDE]).repeat(1, 1, CUES, 1, 1)
    warps[0, :count], valid[0, :count] = to_float(view.warps[shown][part]), to_float(view.valid[shown][part])
    cues[0, :count] = view.cues[shown][cells].float()
    if previous is not None:
        before, plain = to_float(view.previous[part])
        warps[0, -1] = previous * before + (1 - previous) * plain
        valid[0, -1] = to_float(view.previous_valid[part]).amin(0)
    inputs = BuiltinInputs(
        render=render,
        alpha=to_float(view.alpha[part])[None],
        inverse_depth=view.inverse_depth[part][None].float(),
        warps=warps,
        valid=valid,
        cues=cues,
        is_previous=torch.tensor([[0.0] * REFERENCES + [1.0]]),
    )
    return Batch(inputs, to_float(view.target[part])[None], view.good[part][None], (seed,))


def collate(batches: Sequence[Batch]) -> Batch:
    """Join batches of one size."""
    parts = {f.name: torch.cat([getattr(b.inputs, f.name) for b in batches]) for f in fields(BuiltinInputs)}
    target, good = (torch.cat([getattr(b, name) for b in batches]) for name in ("target", "good"))
    return Batch(BuiltinInputs(**parts), target, good, tuple(seed for batch in batches for seed in batch.seeds))
