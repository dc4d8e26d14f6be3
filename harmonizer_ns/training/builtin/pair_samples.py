# SPDX-License-Identifier: Apache-2.0
"""Pairs as samples of the built-in enhancer: references and the neighbouring frame warped into every view."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from harmonizer_ns.images import image_size, to_uint8
from harmonizer_ns.pairs import Pair, read_pairs
from harmonizer_ns.training.batch import PairBatch
from harmonizer_ns.training.builtin.samples import REFERENCES, Sample, make_sample
from harmonizer_ns.training.builtin.trainee import frames_of, references_of
from harmonizer_ns.training.crops import CropConfig, centre_window
from harmonizer_ns.training.pairs import check_pairs, clips
from harmonizer_ns.training.views import load_view
from harmonizer_ns.types import Frames, cat_cameras, cat_frames
from harmonizer_ns.warp import REFERENCE_TOLERANCE, Warped, warp_all


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
    loaded = _load(pair, min(len(pair.references), REFERENCES))
    view, references = frames_of(loaded, loaded.image), references_of(loaded, 0)
    warped = warp_all(references, view, REFERENCE_TOLERANCE)
    neighbours = _truth_and_render(neighbour)
    previous = warp_all(neighbours, view)
    if neighbours is None:
        previous = Warped(torch.zeros_like(view.rgb[[0, 0]]), torch.zeros_like(view.alpha[[0, 0]]))
    cameras = view.cameras if references is None else cat_cameras([view.cameras, references.cameras])
    tensors = {
        "render": to_uint8(view.rgb)[0],
        "target": to_uint8(loaded.target)[0],
        "alpha": to_uint8(view.alpha)[0],
        "depth": view.depth[0],
        "warps": to_uint8(warped.rgb),
        "valid": to_uint8(warped.valid),
        "camera_to_world": cameras.camera_to_world,
        "intrinsics": cameras.intrinsics,
        "previous": to_uint8(previous.rgb),
        "previous_valid": to_uint8(previous.valid),
    }
    source = pair.source if isinstance(pair.source, dict) else {}
    scene = Path(str(source.get("scene", pair.clip or pair.name))).name
    return make_sample(tensors, {"scene": scene, "recipe": str(source.get("stream", "")), "split": split})


def _has_geometry(pair: Pair) -> bool:
    return bool(pair.depth and pair.cameras)


def _load(pair: Pair, references: int) -> PairBatch:
    """The whole pair; photos that cannot be warped are left out."""
    width, height = image_size(pair.image)
    window = centre_window(height, width, CropConfig(height, width))
    return load_view(pair, window, references if _has_geometry(pair) else 0)


def _truth_and_render(pair: Pair | None) -> Frames | None:
    if pair is None or not _has_geometry(pair):
        return None
    view = _load(pair, 0)
    return cat_frames([frames_of(view, rgb) for rgb in (view.target, view.image)])
