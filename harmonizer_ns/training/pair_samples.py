# SPDX-License-Identifier: Apache-2.0
"""Pairs as samples of the built-in enhancer: references and the neighbouring frame warped into every view."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from harmonizer_ns.images import load_image, to_uint8
from harmonizer_ns.pairs import Pair, PairCamera, read_pairs
from harmonizer_ns.training.pairs import check_pairs, clips
from harmonizer_ns.training.samples import REFERENCES, Sample, make_sample
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.warp import REFERENCE_TOLERANCE, SURFACE_TOLERANCE, backward_warp


def load_pair_samples(path: Path) -> list[Sample]:
    """Every pair of a pairs file, of both splits. Pairs without depth or cameras have no candidates.

    Raises:
        InputError: naming everything that is wrong with the file and the images that it names.
    """
    pairs = read_pairs(path)
    check_pairs([pairs.train + pairs.test])
    return [*_samples(pairs.train, "train"), *_samples(pairs.test, "test")]


def _samples(pairs: tuple[Pair, ...], split: str) -> Iterator[Sample]:
    frames = {(clip, pair.frame): pair for clip, shown in clips(pairs).items() for pair in shown}
    for pair in pairs:
        beside = [frames.get((pair.clip, (pair.frame or 0) + step)) for step in (-1, 1)] if pair.clip else []
        yield _sample(pair, next(filter(None, beside), None), split)


def _sample(pair: Pair, neighbour: Pair | None, split: str) -> Sample:
    """One view; what comes from elsewhere is seen through its own depth."""
    view = _frames(pair)
    warps, valid = _warped(_references(pair), view, REFERENCE_TOLERANCE)
    previous, previous_valid = _warped(_truth_and_render(neighbour), view, SURFACE_TOLERANCE)
    if not len(previous):
        previous, previous_valid = torch.zeros_like(view.rgb[[0, 0]]), torch.zeros_like(view.alpha[[0, 0]])
    own = [pair.cameras.image, *pair.cameras.references[:REFERENCES]] if pair.cameras else []
    tensors = {
        "render": to_uint8(view.rgb)[0],
        "target": to_uint8(load_image(pair.target_image)),
        "alpha": to_uint8(view.alpha)[0],
        "depth": view.depth[0],
        "warps": to_uint8(warps),
        "valid": to_uint8(valid),
        "camera_to_world": _poses(own)[: 1 + len(warps)] if own else view.cameras.camera_to_world,
        "intrinsics": _intrinsics(own)[: 1 + len(warps)] if own else view.cameras.intrinsics,
        "previous": to_uint8(previous),
        "previous_valid": to_uint8(previous_valid),
    }
    source = pair.source if isinstance(pair.source, dict) else {}
    scene = Path(str(source.get("scene", pair.clip or pair.name))).name
    return make_sample(tensors, {"scene": scene, "recipe": str(source.get("stream", "")), "split": split})


def _frames(pair: Pair) -> Frames:
    """The damaged image; without geometry its depth is 0, unknown."""
    rgb = load_image(pair.image)[None]
    height, width = rgb.shape[-2:]
    if not (pair.depth and pair.cameras):
        eye = Cameras(torch.eye(4)[None], torch.eye(3)[None], width, height)
        return Frames(rgb, torch.ones_like(rgb[:, :1]), torch.zeros_like(rgb[:, :1]), eye)
    tensors = load_file(pair.depth)
    depth = tensors["depth"].float()[None, None]
    alpha = tensors["alpha"].float()[None, None] if "alpha" in tensors else torch.ones_like(depth)
    own = [pair.cameras.image]
    return Frames(rgb, alpha, depth, Cameras(_poses(own), _intrinsics(own), width, height))


def _references(pair: Pair) -> Frames | None:
    """The best reference photos, with depth where the pair has it."""
    if not (pair.depth and pair.cameras and pair.references):
        return None
    rgb = torch.stack([load_image(path) for path in pair.references[:REFERENCES]])
    depths = load_file(pair.depth).get("reference_depths")
    depth = torch.zeros_like(rgb[:, :1]) if depths is None else depths[:REFERENCES, None].float()
    cameras = pair.cameras.references[:REFERENCES]
    height, width = rgb.shape[-2:]
    return Frames(rgb, torch.ones_like(depth), depth, Cameras(_poses(cameras), _intrinsics(cameras), width, height))


def _truth_and_render(pair: Pair | None) -> Frames | None:
    if pair is None or not (pair.depth and pair.cameras):
        return None
    frames = _frames(pair)[[0, 0]]
    rgb = torch.stack([load_image(pair.target_image), frames.rgb[1]])
    return Frames(rgb, frames.alpha, frames.depth, frames.cameras)


def _warped(
    sources: Frames | None, view: Frames, tolerance: float
) -> tuple[Float[Tensor, "r 3 h w"], Float[Tensor, "r 1 h w"]]:
    if sources is None:
        return view.rgb[:0], view.alpha[:0]
    same = [0] * len(sources)
    warped = backward_warp(sources, view.depth[same], view.cameras[same], tolerance)
    return warped.rgb, warped.valid


def _poses(cameras: list[PairCamera] | tuple[PairCamera, ...]) -> Float[Tensor, "n 4 4"]:
    return torch.tensor([camera.camera_to_world for camera in cameras])


def _intrinsics(cameras: list[PairCamera] | tuple[PairCamera, ...]) -> Float[Tensor, "n 3 3"]:
    return torch.tensor([camera.intrinsics for camera in cameras])
