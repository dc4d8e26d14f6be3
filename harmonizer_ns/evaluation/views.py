# SPDX-License-Identifier: Apache-2.0
"""What is judged comes as views, one by one: pictures of one place by their roles, and the truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.base import Enhancer, Repaired
from harmonizer_ns.evaluation.networks import Networks
from harmonizer_ns.evaluation.quality import Picture, Scores, measure
from harmonizer_ns.flow import DIS_LEAST, Flow, depth_flow, dis_flow
from harmonizer_ns.metrics import good_half_psnr
from harmonizer_ns.types import Frames

PLAIN, ENHANCED, TRUTH = "plain", "enhanced", "truth"
"""Roles of pictures, as reports call them."""


class Place(NamedTuple):
    """Says where a view stands in a video: which clip, and the frame's number in it; neighbours differ by 1."""

    clip: str
    frame: int


@dataclass(frozen=True)
class PicturedView:
    """Holds one view.

    Args:
        name: of the view in its scene: its number.
        shows: the photo's name, or the pair's.
        pictures: by role.
        truth: what they should look like, of the same size, on the same device.
        mask: which pixels count; None for all.
        seconds: what the enhancer took.
        place: in a video; None for a single picture.
        geometry: of the plain picture, where it is known.
    """

    name: str
    shows: str
    pictures: dict[str, Picture]
    truth: Picture
    mask: Float[Tensor, "1 h w"] | None = None
    seconds: float | None = None
    place: Place | None = None
    geometry: Frames | None = None

    def scores(self, networks: Networks) -> dict[str, Scores]:
        """Measure every picture, by its role; the plain one tells which half was good."""
        plain, scores = self.pictures.get(PLAIN), {}
        for role, picture in self.pictures.items():
            scores[role] = measure(picture, self.truth, networks, plain, self.mask)
            if plain is not None:
                good = good_half_psnr(plain[None], picture[None], self.truth[None])
                scores[role]["good_half_psnr"] = good.after.item()
        return scores

    def follows(self, before: PicturedView) -> bool:
        """Whether this is the next frame of the same clip."""
        if self.place is None or before.place is None:
            return False
        clip, frame = before.place
        return self.place == (clip, frame + 1) and self.truth.shape == before.truth.shape

    def flow_to(self, before: PicturedView) -> Flow | None:
        """Find the flow to the frame before: by depth, else by DIS between truths; None when they are too small."""
        now, then = self.geometry, before.geometry
        if now is not None and then is not None:
            return depth_flow(now.depth, now.cameras, then.depth, then.cameras)
        if min(self.truth.shape[-2:]) < DIS_LEAST:
            return None
        return dis_flow(self.truth[None], before.truth[None])


def timed(enhance: Callable[[], Repaired], render: Frames) -> tuple[Picture, float]:
    """Enhance a render (a batch of one); the picture, checked, and the seconds that it took."""
    start = time.perf_counter()
    repaired = enhance()
    if repaired.rgb.is_cuda:
        torch.cuda.synchronize(repaired.rgb.device)
    seconds = time.perf_counter() - start
    return repaired.checked(render).rgb[0], seconds


class Scene(Protocol):
    """Gives views to judge."""

    @property
    def name(self) -> str:
        """Of the scene."""
        ...

    @property
    def how(self) -> str:
        """How its pictures were made, in a few words."""
        ...

    @property
    def positions(self) -> dict[str, Float[Tensor, "n 3"]]:
        """Camera positions by group, as `harmonizer_ns.report.CameraMap` draws them; empty where they are not known."""
        ...

    def views(self, enhancer: Enhancer | None) -> Iterator[PicturedView]:
        """Give the views, enhanced as well where there is an enhancer."""
        ...
