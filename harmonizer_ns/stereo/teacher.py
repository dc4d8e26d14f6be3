# SPDX-License-Identifier: Apache-2.0
"""Depth of the photos teaches a model in training what depth it should show there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.stereo.depth import DepthMap
from harmonizer_ns.stereo.geometry import Geometry
from harmonizer_ns.warp import inverted

_LAST = 0.1
"""Share of the weight that is left at the end of a run: by then the photos tell more than their depth does."""
_EXACT = 0.02
"""Errors below this, in units of the scene's disparity, count squared: the photos' depth is no more exact."""


@dataclass(frozen=True)
class DepthTeacher:
    """Pulls the z-depth that a model shows at its training photos to the photos' own.

    Disparities ``1 / z`` are compared in units ``u`` of the median disparity of all photos, so that the scene's scale
    does not matter. With the photos' disparity ``d``, the model's ``m`` and the confidence ``c`` (0 where ``d`` is not
    known) the loss is the mean of ``c huber((m - d) / u)`` over all pixels, as that of colours is.

    Args:
        maps: one for each training photo.
        weight: of the loss when the run begins; it falls exponentially to a tenth.
        steps: after which the run ends.
    """

    maps: Sequence[DepthMap]
    weight: float
    steps: int

    @cached_property
    def unit(self) -> float:
        """The scene's disparity."""
        known = torch.cat([torch.zeros(0), *(m.depth[m.depth > 0] for m in self.maps)])
        return 1 / known.median().item() if len(known) else 1.0

    def on_image(self, depth: Float[Tensor, "1 h w"], photo: int, step: int) -> Float[Tensor, ""]:
        """Compare a photo's render, of any size.

        Args:
            depth: expected z-depth of the render, 0 where it is empty.
            photo: position among the training photos.
            step: of the run.
        """
        images = torch.stack([self.maps[photo].depth, self.maps[photo].confidence]).to(depth.device)
        known, confidence = F.interpolate(images[None], tuple(depth.shape[-2:]), mode="nearest-exact")[0]
        return self._strength(step) * disparity_loss(depth[0], known, confidence, self.unit)

    def on_rays(
        self, distance: Float[Tensor, " n"], rays: Float[Tensor, "n 3"], photos: Int[Tensor, " n"], step: int
    ) -> Float[Tensor, ""]:
        """Compare rays of photos, which a lens may have bent on their way to the photo's pixels.

        Args:
            distance: to what a ray shows, along it.
            rays: their directions, of unit length.
            photos: positions among the training photos.
            step: of the run.
        """
        forward, known, confidence = (part.to(distance.device) for part in self._look_up(rays.cpu(), photos.cpu()))
        return self._strength(step) * disparity_loss(distance * forward, known, confidence, self.unit)

    def _look_up(self, rays: Float[Tensor, "n 3"], photos: Int[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor]:
        """Find for each ray how far it goes forward, and the photo's depth and confidence."""
        x, y, forward = torch.einsum("nij,nj->in", self._projections[photos], rays)
        widths, heights = self._sizes[photos].unbind(-1)
        column, row = (x / forward).floor().long(), (y / forward).floor().long()
        shown = (forward > 0) & (column >= 0) & (row >= 0) & (column < widths) & (row < heights)
        place = torch.where(shown, self._starts[photos] + row * widths + column, 0)
        return forward, self._flat[0, place] * shown, self._flat[1, place] * shown

    @cached_property
    def _projections(self) -> Float[Tensor, "photos 3 3"]:
        """From directions in the scene to homogeneous pixels of the maps, ``K R^T``."""
        return torch.cat([m.camera.intrinsics @ m.camera.camera_to_world[:, :3, :3].mT for m in self.maps]).cpu()

    @cached_property
    def _sizes(self) -> Int[Tensor, "photos 2"]:
        return torch.tensor([(m.camera.width, m.camera.height) for m in self.maps])

    @cached_property
    def _starts(self) -> Int[Tensor, " photos"]:
        """Where the pixels of each map begin among those of all."""
        pixels = self._sizes.prod(dim=-1)
        return pixels.cumsum(0) - pixels

    @cached_property
    def _flat(self) -> Float[Tensor, "2 pixels"]:
        """Depth and confidence of all maps, one after the other."""
        return torch.cat([torch.stack([m.depth, m.confidence]).flatten(1) for m in self.maps], dim=1)

    def _strength(self, step: int) -> float:
        return self.weight * _LAST ** min(step / self.steps, 1.0)


def teacher_of(geometry: Geometry | None, weight: float, steps: int) -> DepthTeacher | None:
    """Make a run's teacher; None where it is not wanted (weight 0), or the photos' depth is known nowhere."""
    if geometry is None or weight == 0 or not any(m.depth.any() for m in geometry.maps):
        return None
    return DepthTeacher(geometry.maps, weight, steps)


def disparity_loss(
    depth: Float[Tensor, "*shape"], known: Float[Tensor, "*shape"], confidence: Float[Tensor, "*shape"], unit: float
) -> Float[Tensor, ""]:
    """Compare depths as `DepthTeacher` does; where either is 0, nothing is compared."""
    weight = confidence * ((depth > 0) & (known > 0))
    error = (disparity(depth) - disparity(known)) / unit
    return (weight * F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=_EXACT)).mean()


def disparity(depth: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Inverse depth, 0 where depth is 0."""
    return inverted(depth, least=1e-6)
