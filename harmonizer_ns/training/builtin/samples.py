# SPDX-License-Identifier: Apache-2.0
"""Training views of the built-in enhancer: files, and random augmented crops of them.

A sample file (``<scene>/<recipe>_<view>.safetensors``) holds one rendered view with its truth: ``render`` and
``target`` uint8 [3, h, w]; ``alpha`` uint8 [1, h, w]; ``depth`` [1, h, w]; ``warps`` uint8 [r, 3, h, w] and ``valid``
uint8 [r, 1, h, w], reference photos warped through the render's depth, best first, r in 0..3; ``previous`` uint8
[2, 3, h, w] and ``previous_valid`` uint8 [2, 1, h, w], the neighbouring frame's truth and plain render, warped alike;
``camera_to_world`` [1 + r, 4, 4] and ``intrinsics`` [1 + r, 3, 3], the view first, all at the view's size. Metadata:
``scene``, ``recipe``, ``split``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Float16, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harmonizer_ns.enhancers.builtin.inputs import (
    CUE_STRIDE,
    CUES,
    BuiltinInputs,
    ray_cues,
    relative_inverse_depth,
)
from harmonizer_ns.images import Padding, to_float
from harmonizer_ns.types import Cameras

REFERENCES = 3
SLOTS = REFERENCES + 1
"""Candidates of every batch: three references, then the previous output."""


@dataclass(frozen=True)
class Sample:
    """One training view, compact in memory. Candidates: the references, then previous truth and previous render.

    Args:
        good: where the render's error is at most its median over the image.
    """

    scene: str
    recipe: str
    split: str
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


@dataclass(frozen=True)
class Batch:
    """Network input with its truth."""

    inputs: BuiltinInputs
    target: Float[Tensor, "n 3 h w"]
    good: Bool[Tensor, "n 1 h w"]


def load_samples(folder: str | Path) -> list[Sample]:
    """Every sample below a folder, in the order of the file names.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: naming the file that is not a good sample.
    """
    paths = sorted(Path(folder).glob("**/*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"no samples (*.safetensors) below {folder}")
    return [load_sample(path) for path in paths]


def load_sample(path: str | Path) -> Sample:
    """Read one sample file.

    Raises:
        ValueError: when it is damaged, or lacks a tensor.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata() or {}
        return make_sample(tensors, metadata)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path} is not a training sample: {error!r}") from error


def make_sample(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Sample:
    """A sample from what its file holds.

    Raises:
        KeyError: naming a tensor that is not there.
    """
    render, target, depth = tensors["render"], tensors["target"], tensors["depth"].float()
    height, width = render.shape[-2:]
    previous = tensors.get("previous", torch.zeros(2, 3, height, width, dtype=torch.uint8))
    previous_valid = tensors.get("previous_valid", torch.zeros(2, 1, height, width, dtype=torch.uint8))
    return Sample(
        scene=metadata["scene"],
        recipe=metadata.get("recipe", ""),
        split=metadata.get("split", "train"),
        render=render,
        target=target,
        alpha=tensors["alpha"],
        inverse_depth=relative_inverse_depth(depth[None])[0].half(),
        good=good_pixels(to_float(render)[None], to_float(target)[None])[0],
        warps=tensors["warps"][:REFERENCES],
        valid=tensors["valid"][:REFERENCES],
        cues=_cues(depth, tensors["camera_to_world"].float(), tensors["intrinsics"].float()).half(),
        previous=previous,
        previous_valid=previous_valid,
    )


def _cues(
    depth: Float[Tensor, "1 h w"], camera_to_world: Float[Tensor, "c 4 4"], intrinsics: Float[Tensor, "c 3 3"]
) -> Float[Tensor, "r 2 h/4 w/4"]:
    height, width = depth.shape[-2:]
    cameras = Cameras(camera_to_world, intrinsics, width, height)
    count = len(cameras) - 1
    return ray_cues(depth[None].expand(count, -1, -1, -1), cameras[[0] * count], cameras[1:])


def good_pixels(render: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> Bool[Tensor, "n 1 h w"]:
    """The better half: where the render's squared error is at most its median over the image."""
    error = (render - target).square().mean(1, keepdim=True)
    return error <= error.flatten(1).median(dim=1).values[:, None, None, None]


def whole(sample: Sample, multiple: int, references: int = REFERENCES, previous: float | None = None) -> Batch:
    """A whole view as a batch of one, padded to multiples; `good` is False in the padding.

    Args:
        sample: the view.
        multiple: of which the sides become multiples.
        references: how many of its references to show.
        previous: None without; else the share of truth in the previous output, the rest is plain render.
    """
    height, width = sample.render.shape[-2:]
    padding = Padding.to_multiple(height, width, multiple)
    shown = list(range(min(references, len(sample.warps))))
    view = window(sample, shown, previous, slice(0, height), slice(0, width))
    images = {name: padding.apply(value) for name, value in view.items() if name not in ("good", "cues")}
    rows, columns = (side // CUE_STRIDE for side in images["render"].shape[-2:])
    cues = Padding(columns - view["cues"].shape[-1], rows - view["cues"].shape[-2]).apply(view["cues"])
    good = torch.zeros(1, rows * CUE_STRIDE, columns * CUE_STRIDE)
    good[:, :height, :width] = view["good"]
    return collate([{**images, "cues": cues, "good": good}])


def window(
    sample: Sample, references: list[int], previous: float | None, rows: slice, columns: slice
) -> dict[str, Tensor]:
    """The network's view of a window, as floats; unused slots have validity 0. Window starts on multiples of 4."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    cue_rows, cue_columns = (slice(s.start // CUE_STRIDE, -(-s.stop // CUE_STRIDE)) for s in (rows, columns))
    warps, valid = torch.zeros(SLOTS, 3, height, width), torch.zeros(SLOTS, 1, height, width)
    cues = torch.zeros(SLOTS, CUES, cue_rows.stop - cue_rows.start, cue_columns.stop - cue_columns.start)
    count = len(references)
    warps[:count] = to_float(sample.warps[references][..., rows, columns])
    valid[:count] = to_float(sample.valid[references][..., rows, columns])
    cues[:count] = sample.cues[references][..., cue_rows, cue_columns].float()
    if previous is not None:
        truth, render = to_float(sample.previous[..., rows, columns])
        warps[-1] = previous * truth + (1 - previous) * render
        valid[-1] = to_float(sample.previous_valid[..., rows, columns]).amin(0)
    return {
        "render": to_float(sample.render[..., rows, columns]),
        "target": to_float(sample.target[..., rows, columns]),
        "alpha": to_float(sample.alpha[..., rows, columns]),
        "inverse_depth": sample.inverse_depth[..., rows, columns].float(),
        "good": sample.good[..., rows, columns].float(),
        "warps": warps,
        "valid": valid,
        "cues": cues,
    }


def collate(views: list[dict[str, Tensor]]) -> Batch:
    """Join windows of one size."""
    stacked = {name: torch.stack([view[name] for view in views]) for name in views[0]}
    target, good = stacked.pop("target"), stacked.pop("good") > 0
    kinds = torch.zeros(len(views), SLOTS)
    kinds[:, -1] = 1
    return Batch(BuiltinInputs(**stacked, is_previous=kinds), target, good)
