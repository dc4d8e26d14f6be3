# SPDX-License-Identifier: Apache-2.0
"""One pair, loaded and cropped: images, references, mask, depth and cameras."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from harmonizer_ns.images import load_image
from harmonizer_ns.pairs import Pair
from harmonizer_ns.training.batch import Geometry, PairBatch
from harmonizer_ns.training.crops import Window, covered
from harmonizer_ns.types import Cameras, Frames

Slot = int | None
"""Which reference of a pair is shown; None is the pair's own image."""


class LoadedPair(NamedTuple):
    """A whole pair. Without depth and cameras depth is 0 everywhere, and there are no references.

    Args:
        render: the damaged image.
        target: what it should look like.
        references: photos with rendered depth, best first.
    """

    render: Frames
    target: Float[Tensor, "1 3 h w"]
    references: Frames | None


def load_pair(pair: Pair, references: int = 0) -> LoadedPair:
    """A pair with at most so many of its references, which have the image's size where there are cameras."""
    rgb, target = load_image(pair.image)[None], load_image(pair.target_image)[None]
    depth, alpha, others = _load_depth(pair, *rgb.shape[-2:])
    if pair.cameras is None or pair.depth is None:
        nowhere = Cameras(torch.eye(4)[None], torch.eye(3)[None], rgb.shape[-1], rgb.shape[-2])
        return LoadedPair(Frames(rgb, alpha, depth, nowhere), target, None)
    render, count = Frames(rgb, alpha, depth, pair.cameras[0]), min(references, len(pair.references))
    if not count:
        return LoadedPair(render, target, None)
    photos = torch.stack([load_image(path) for path in pair.references[:count]])
    frames = Frames(photos, torch.ones_like(photos[:, :1]), others[:count], pair.cameras[1 : 1 + count])
    return LoadedPair(render, target, frames)


def _load_depth(
    pair: Pair, height: int, width: int
) -> tuple[Float[Tensor, "1 1 h w"], Float[Tensor, "1 1 h w"], Float[Tensor, "r 1 h w"]]:
    """Depth and opacity of the image, and depth of each reference; 0, 1 and 0 where the pair does not tell."""
    tensors = load_file(pair.depth) if pair.has_geometry else {}  # type: ignore[arg-type]
    unknown = torch.zeros(1 + len(pair.references), 1, height, width)
    depth = tensors.get("depth", unknown[0, 0]).float()[None, None]
    alpha = tensors.get("alpha", torch.ones_like(depth[0, 0])).float()[None, None]
    return depth, alpha, tensors.get("reference_depths", unknown[1:, 0]).float()[:, None]


def load_view(pair: Pair, window: Window, references: int) -> PairBatch:
    """A pair as a batch of one.

    Args:
        pair: what to load.
        window: of the image; the other images are cut alike.
        references: photos to show; fewer are repeated, and without any the image itself is shown.
    """
    image = load_image(pair.image)[None]
    height, width = image.shape[-2:]
    slots = _slots(len(pair.references), references)
    photos = [image[0] if slot is None else covered(load_image(pair.references[slot]), height, width) for slot in slots]
    return PairBatch(
        names=(pair.name,),
        prompts=(pair.prompt,),
        seeds=(0,),
        image=window.cut(image),
        target=window.cut(load_image(pair.target_image)[None]),
        references=window.cut(torch.stack(photos))[None] if photos else None,
        mask=window.cut(load_image(pair.mask)[None].mean(1, keepdim=True)) if pair.mask else None,
        geometry=_geometry(pair.depth, pair.cameras, window, slots) if pair.depth and pair.cameras else None,
    )


def _slots(there: int, wanted: int) -> list[Slot]:
    return [i % there if there else None for i in range(wanted)]


def _geometry(depth: Path, cameras: Cameras, window: Window, slots: Sequence[Slot]) -> Geometry:
    tensors = {name: value.float() for name, value in load_file(depth).items()}
    own = tensors["depth"]
    alpha = tensors.get("alpha", torch.ones_like(own))
    others = tensors.get("reference_depths")
    unknown = torch.zeros_like(own)
    depths = [own if slot is None else unknown if others is None else others[slot] for slot in slots]
    chosen = cameras[[0 if slot is None else slot + 1 for slot in slots]]
    return Geometry(
        depth=_cut_depth([own], window),
        alpha=window.cut(alpha[None, None]),
        camera_to_world=cameras.camera_to_world[:1],
        intrinsics=window.intrinsics(cameras.intrinsics[:1]),
        reference_depth=_cut_depth(depths, window)[None],
        reference_camera_to_world=chosen.camera_to_world[None],
        reference_intrinsics=window.intrinsics(chosen.intrinsics)[None],
    )


def _cut_depth(depths: list[Float[Tensor, "hs ws"]], window: Window) -> Float[Tensor, "n 1 h w"]:
    if not depths:
        return torch.zeros(0, 1, window.crop.height, window.crop.width)
    return window.cut_nearest(torch.stack(depths)[:, None])
