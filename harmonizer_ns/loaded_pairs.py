# SPDX-License-Identifier: Apache-2.0
"""A pair is loaded whole: the damaged image with its geometry, what it should look like, and photos beside it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from harmonizer_ns.images import load_image
from harmonizer_ns.pairs import Pair
from harmonizer_ns.types import Cameras, Frames


class LoadedPair(NamedTuple):
    """Holds a whole pair. Without depth and cameras depth is 0 everywhere, and there are no references.

    Args:
        render: the damaged image.
        target: what it should look like.
        references: photos with rendered depth, best first.
    """

    render: Frames
    target: Float[Tensor, "1 3 h w"]
    references: Frames | None


def load_pair(pair: Pair, references: int = 0) -> LoadedPair:
    """Load a whole pair with at most so many of its references."""
    rgb, target = load_image(pair.image)[None], load_image(pair.target_image)[None]
    depths = load_file(pair.depth) if pair.has_geometry else {}  # type: ignore[arg-type]
    depth = depths.get("depth", torch.zeros_like(rgb[0, 0])).float()[None, None]
    alpha = depths.get("alpha", torch.ones_like(rgb[0, 0])).float()[None, None]
    height, width = rgb.shape[-2:]
    cameras = pair.cameras if pair.has_geometry and pair.cameras else _anywhere(width, height)
    render, count = Frames(rgb, alpha, depth, cameras[0]), min(references, len(cameras) - 1)
    if not count:
        return LoadedPair(render, target, None)
    photos = torch.stack([load_image(path) for path in pair.references[:count]])
    others = depths.get("reference_depths", torch.zeros_like(photos[:, 0])).float()[:count, None]
    return LoadedPair(render, target, Frames(photos, torch.ones_like(others), others, cameras[1 : 1 + count]))


def _anywhere(width: int, height: int) -> Cameras:
    return Cameras(torch.eye(4)[None], torch.eye(3)[None], width, height)
