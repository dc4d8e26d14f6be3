# SPDX-License-Identifier: Apache-2.0
"""`estimate_depth` finds the depth of photos by comparing them: sources, sweeps, agreement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.progress import counter
from harmonizer_ns.raster.threads import parallel_chunks
from harmonizer_ns.stereo.consistency import beside_jumps, settle
from harmonizer_ns.stereo.normals import fit_normals
from harmonizer_ns.stereo.settings import StereoSettings
from harmonizer_ns.stereo.sources import MIN_POINTS, Companions, find_companions, lattice
from harmonizer_ns.stereo.sweep import sweep
from harmonizer_ns.stereo.views import View, levels, pyramid
from harmonizer_ns.types import Cameras
from harmonizer_ns.warp import backproject, inverted

T = TypeVar("T")

_ROUGH_WIDTH = 128
"""Photos of a capture without points are matched this small first, for points."""
_SURE = 0.55
_KNOWN = 0.1
"""Depth that is known worse is no witness."""


@dataclass(frozen=True)
class DepthMap:
    """Holds the depth of one photo.

    Args:
        depth: z-depth, 0 where it is not known.
        confidence: in [0, 1], 0 where depth is not known.
        camera: of the size of the maps, which may be smaller than the photo.
        witnesses: indices of the photos that were asked.
    """

    depth: Float[Tensor, "h w"]
    confidence: Float[Tensor, "h w"]
    camera: Cameras
    witnesses: tuple[int, ...] = ()

    @property
    def sure(self) -> Bool[Tensor, "h w"]:
        """Tell where depth is to be relied on."""
        return self.confidence >= _SURE

    def normals(self) -> Float[Tensor, "h w 3"]:
        """Fit the surface's normals, see `fit_normals`."""
        return fit_normals(self.depth, self.camera)


def estimate_depth(
    capture: Capture,
    settings: StereoSettings = StereoSettings(),
    among: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> list[DepthMap]:
    """Find the depth of photos by comparing them with each other.

    The order of the photos and the number of threads change no bit of a CPU's results.

    Args:
        capture: photos, cameras and, where it has some, points.
        settings: how to look, and what to believe.
        among: indices of the photos to use and to find depth for; None: those to learn from, or all without a split.
        device: "cpu" takes all threads of `harmonizer_ns.raster`, a GPU one photo after the other.

    Returns:
        one map for each of these photos; a photo that shares too little with all others has no depth anywhere.
        Witnesses are numbered within ``among``.
    """
    chosen = list(among if among is not None else capture.train or range(len(capture)))
    order = sorted(range(len(chosen)), key=lambda k: capture.names[chosen[k]])
    part = capture.part([chosen[k] for k in order]).to("cpu")
    if order and len(part.points) < MIN_POINTS:
        part = _with_rough_points(part, settings, device)
    found = {k: _renumbered(depth, order) for k, depth in zip(order, _estimate(part, settings, device), strict=True)}
    return [found[k] for k in range(len(order))]


def _renumbered(depth: DepthMap, order: list[int]) -> DepthMap:
    return replace(depth, witnesses=tuple(order[j] for j in depth.witnesses))


def _estimate(capture: Capture, settings: StereoSettings, device: torch.device | str) -> list[DepthMap]:
    """Find the depth of all photos of a capture with points."""
    if not len(capture):
        return []
    count = levels(capture.cameras, settings.width)
    views = [pyramid(capture, i, settings.width, count) for i in range(len(capture))]
    cameras = [sizes[-1].camera for sizes in views]
    most = max(settings.sources, settings.witnesses)
    companions = find_companions(cameras, capture.points.float(), capture.seen, most)
    one_more = counter(len(views), f"photos {settings.width} pixels wide")

    def searched(i: int) -> tuple[Tensor, Tensor]:
        found = _swept(i, views, companions[i], settings, device)
        one_more()
        return found

    swept = _for_each(searched, len(views), device)
    inverses, scores = [inverse for inverse, _ in swept], [score for _, score in swept]

    def settled(i: int) -> DepthMap:
        found = companions[i]
        others = () if found is None else found.others[: settings.witnesses]
        inverse, confidence = settle(i, inverses, scores, cameras, others, settings)
        return DepthMap(inverted(inverse).cpu(), confidence.cpu(), cameras[i], others)

    return _for_each(settled, len(views), device)


def _swept(
    index: int,
    views: list[list[View]],
    found: Companions | None,
    settings: StereoSettings,
    device: torch.device | str,
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Sweep one photo; inverse depth is 0 where it matches badly or is masked."""
    if found is None:
        nothing = torch.zeros(views[index][-1].grey.shape, device=device)
        return nothing, nothing
    own, *others = ([view.to(device) for view in views[i]] for i in (index, *found.others[: settings.sources]))
    inverse, score = sweep(own, others, found, settings.planes, settings.correlation)
    score = torch.where(beside_jumps(inverse), score / 2, score)
    known = score >= _KNOWN
    if own[-1].mask is not None:
        known &= own[-1].mask
    return torch.where(known, inverse, 0.0), score


def _for_each(work: Callable[[int], T], count: int, device: torch.device | str) -> list[T]:
    """Do something for every photo: on threads, or one after the other on a GPU."""
    results: dict[int, T] = {}

    def some(begin: int, end: int) -> None:
        for i in range(begin, end):
            results[i] = work(i)

    if torch.device(device).type == "cpu":
        parallel_chunks(some, count, 1)
    else:
        some(0, count)
    return [results[i] for i in range(count)]


def _with_rough_points(capture: Capture, settings: StereoSettings, device: torch.device | str) -> Capture:
    """Give a capture points: those of small depth maps, which are looked for wherever its cameras could see."""
    wide = replace(capture, points=lattice(capture.cameras), seen=None)
    maps = _estimate(wide, replace(settings, width=_ROUGH_WIDTH), device)
    points = [backproject(m.depth[None, None], m.camera)[0][m.confidence >= settings.confidence] for m in maps]
    return replace(wide, points=torch.cat([capture.points.float(), *points]))
