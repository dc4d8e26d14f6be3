# SPDX-License-Identifier: Apache-2.0
"""Depth maps become seed points: one for every pixel's footprint on a surface, however many photos show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.images import resize, to_float, to_uint8
from harmonizer_ns.progress import counted
from harmonizer_ns.stereo.consistency import ask
from harmonizer_ns.stereo.depth import DepthMap
from harmonizer_ns.stereo.settings import StereoSettings
from harmonizer_ns.warp import backproject, inverted, sample

_SMOOTH = 0.02
"""Points where a photo shows no detail are kept as often as where its grey changes by so much from pixel to pixel."""


@dataclass(frozen=True)
class Seeds:
    """Points to begin with.

    Args:
        points: in the capture's frame.
        colors: in [0, 1], the mean of the photos that agree.
        normals: of unit length, towards the photo; zero where they are not known.
    """

    points: Float[Tensor, "p 3"]
    colors: Float[Tensor, "p 3"]
    normals: Float[Tensor, "p 3"]

    @classmethod
    def of(cls, capture: Capture) -> Seeds:
        """Take the capture's own points, whose normals are not known."""
        points = capture.points.float().cpu()
        return cls(points, capture.colors.float().cpu(), torch.zeros_like(points))

    def __len__(self) -> int:
        return len(self.points)

    def __add__(self, other: Seeds) -> Seeds:
        return Seeds(
            torch.cat([self.points, other.points]),
            torch.cat([self.colors, other.colors]),
            torch.cat([self.normals, other.normals]),
        )


def fuse(capture: Capture, maps: Sequence[DepthMap], settings: StereoSettings = StereoSettings()) -> Seeds:
    """Turn depth maps into points: a pixel becomes one unless an earlier photo's point lies on it already.

    Photos come in the order of their names. Where there are more points than the photos' pixels call for, most of those
    are kept that lie where photos show detail.

    Args:
        capture: the photos of the maps, in their order.
        maps: from `estimate_depth`.
        settings: what to believe, and how many points to keep.
    """
    inverses = [inverted(m.depth) for m in maps]
    photos = [to_uint8(resize(to_float(capture.photo(i))[None], *m.depth.shape)).cpu() for i, m in enumerate(maps)]
    taken = [torch.zeros_like(m.depth, dtype=torch.bool) for m in maps]
    parts = [(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0))]
    for i in counted(sorted(range(len(maps)), key=lambda k: capture.names[k]), "photos made into points"):
        new = (maps[i].confidence >= settings.confidence) & ~taken[i]
        color, count = to_float(photos[i][0]), torch.ones_like(inverses[i])
        for j in maps[i].witnesses:
            witness = ask(torch.where(new, inverses[i], 0.0), maps[i].camera, inverses[j], maps[j].camera, settings)
            columns, rows = witness.pixels[witness.agrees].long().unbind(-1)
            taken[j][rows.clamp(max=taken[j].shape[0] - 1), columns.clamp(max=taken[j].shape[1] - 1)] = True
            color += sample(to_float(photos[j]), witness.pixels[None])[0] * witness.agrees
            count += witness.agrees
        points = backproject(maps[i].depth[None, None], maps[i].camera)[0]
        share = _SMOOTH + torch.hypot(*torch.gradient(to_float(photos[i][0]).mean(dim=0)))
        parts.append((points[new], (color / count).permute(1, 2, 0)[new], maps[i].normals()[new], share[new]))
    points, colors, normals, share = (torch.cat(part) for part in zip(*parts, strict=True))
    most = int(settings.seeds * sum(inverse.numel() for inverse in inverses) ** 0.5)
    if len(points) > most:
        kept = _in_proportion(share, most)
        points, colors, normals = points[kept], colors[kept], normals[kept]
    return Seeds(points, colors, normals)


def _in_proportion(share: Float[Tensor, " p"], count: int) -> Bool[Tensor, " p"]:
    """Choose at most ``count``, as often as their shares say: systematic sampling, with nothing random about it."""
    passed = (share.double() / share.double().sum() * count).cumsum(0).floor()
    return passed.diff(prepend=passed.new_zeros(1)) > 0
