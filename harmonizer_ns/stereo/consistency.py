# SPDX-License-Identifier: Apache-2.0
"""Depth is believed where other photos' depth leads there and back again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.stereo.settings import StereoSettings
from harmonizer_ns.stereo.views import carry, inside
from harmonizer_ns.types import Cameras
from harmonizer_ns.warp import pixel_grid, sample

_EDGE = 0.05
"""Inverse depths of neighbours that differ by more, relatively, are of two surfaces."""
_OCCLUDER = 0.04
"""What another photo sees nearer by more than this hides the point, and says nothing about it."""


@dataclass(frozen=True)
class Witness:
    """Tells what another photo says about a photo's depth.

    Args:
        agrees: where it confirms the depth.
        vote: how closely, in [0, 1]; 0 where it does not.
        objects: where it sees something else at the point, or through it.
        inverse: the inverse depth that it gives the pixel where it agrees, 0 elsewhere.
        pixels: where it shows the point.
    """

    agrees: Bool[Tensor, "h w"]
    vote: Float[Tensor, "h w"]
    objects: Bool[Tensor, "h w"]
    inverse: Float[Tensor, "h w"]
    pixels: Float[Tensor, "h w 2"]


def ask(
    inverse: Float[Tensor, "h w"],
    camera: Cameras,
    theirs: Float[Tensor, "h2 w2"],
    other: Cameras,
    settings: StereoSettings,
) -> Witness:
    """Compare a photo's inverse depth with another's; 0 is unknown in both.

    Pixel ``p`` goes to ``q`` in the other photo, and through that one's depth at ``q`` back to ``p'``. The other agrees
    where the depths at ``q`` differ little and ``|p' - p|`` is small.
    """
    grid = pixel_grid(camera.width, camera.height, inverse.device)
    pixels, expected = carry(grid, inverse, camera, other)
    shown = (expected > 0) & inside(pixels, other)
    pixels = torch.where(shown[..., None], pixels, 0.0)
    found, known = sample(torch.stack([theirs, (theirs > 0).to(theirs.dtype)])[None], pixels[None])[0]
    back, returned = carry(pixels, found, other, camera)
    says = shown & (known > 1 - 1e-4) & (returned > 0)
    near = (back - grid).square().sum(-1) <= settings.reprojection**2
    vote = 1 - ((found - expected) / (settings.tolerance * expected.clamp(min=1e-12))) ** 2
    agrees = says & near & (vote >= 0)
    objects = says & ~agrees & (found < (1 + _OCCLUDER) * expected)
    return Witness(agrees, vote * agrees, objects, torch.where(agrees, returned, 0.0), pixels)


def settle(
    index: int,
    inverses: Sequence[Tensor],
    scores: Sequence[Tensor],
    cameras: Sequence[Cameras],
    others: Sequence[int],
    settings: StereoSettings,
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Average a photo's inverse depth with that of the witnesses that agree; it is 0 where too few do.

    Returns:
        inverse depth, and confidence ``s (v + 1) / (n + o + k)``: ``s`` is the score, ``v`` the sum of the votes of
        ``n`` witnesses that agree, ``o`` the number of those that object, ``k`` how many must agree.
    """
    own = inverses[index]
    total, (agreeing, votes, objections) = own.clone(), torch.zeros(3, *own.shape, device=own.device)
    for j in others:
        witness = ask(own, cameras[index], inverses[j], cameras[j], settings)
        total += witness.inverse
        agreeing += witness.agrees
        votes += witness.vote
        objections += witness.objects
    enough = max(1, min(settings.agreeing, len(others)))
    believed = (own > 0) & (agreeing >= enough)
    confidence = (scores[index] * (votes + 1) / (agreeing + objections + enough)).clamp(max=1)
    return torch.where(believed, total / (1 + agreeing), 0.0), torch.where(believed, confidence, 0.0)


def beside_jumps(inverse: Float[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """Tell where neighbouring pixels belong to different surfaces."""
    image = inverse[None, None]
    high, low = F.max_pool2d(image, 3, 1, 1), -F.max_pool2d(-image, 3, 1, 1)
    return (high - low > _EDGE * image)[0, 0]
