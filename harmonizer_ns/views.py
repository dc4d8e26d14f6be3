# SPDX-License-Identifier: Apache-2.0
"""What is judged comes as views, one by one: pictures of one place by their roles, and the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.flow import DIS_LEAST, Flow, depth_flow, dis_flow
from harmonizer_ns.metrics import mask_weight
from harmonizer_ns.types import Frames

PLAIN, ENHANCED, TRUTH = "plain", "enhanced", "truth"
"""Roles of pictures, as reports call them."""
Picture = Float[Tensor, "3 h w"]
"""Colours in [0, 1]."""


class Place(NamedTuple):
    """Says where a view stands in a video: which clip, and the frame's number in it; neighbours differ by 1."""

    clip: str
    frame: int


@dataclass(frozen=True)
class JudgedView:
    """Holds one view.

    Args:
        name: of the view in its scene: its number.
        shows: the photo's name, or the pair's.
        pictures: by role; what could not be made is missing.
        truth: what they should look like, of the same size, on the same device.
        mask: which pixels count; None for all.
        seconds: what the enhancer took.
        place: in a video; None for a single picture.
        geometry: of the plain picture, where it is known.
    """

    name: str
    shows: str
    pictures: Mapping[str, Picture]
    truth: Picture
    mask: Float[Tensor, "1 h w"] | None = None
    seconds: float | None = None
    place: Place | None = None
    geometry: Frames | None = None

    @property
    def all_pictures(self) -> dict[str, Picture]:
        """The pictures, and the truth as one of them."""
        return {**self.pictures, TRUTH: self.truth}

    def follows(self, before: JudgedView) -> bool:
        """Whether this is the next frame of the same clip."""
        if self.place is None or before.place is None:
            return False
        clip, frame = before.place
        return self.place == (clip, frame + 1) and self.truth.shape == before.truth.shape

    def flow_to(self, before: JudgedView) -> Flow | None:
        """Find the flow to the frame before: by depth, else by DIS between truths; None when they are too small."""
        now, then = self.geometry, before.geometry
        if now is not None and then is not None:
            return depth_flow(now.depth, now.cameras, then.depth, then.cameras)
        if min(self.truth.shape[-2:]) < DIS_LEAST:
            return None
        return dis_flow(self.truth[None], before.truth[None])


def view_of(capture: Capture, index: int, pictures: Mapping[str, Picture], seconds: float | None = None) -> JudgedView:
    """Put a photo of a capture beside pictures of its view, on their device."""
    truth = capture.frames(index).rgb[0].to(next(iter(pictures.values())))
    name, mask = capture.names[index], mask_weight(capture.mask(index))
    return JudgedView(f"{index:04d}", name, pictures, truth, None if mask is None else mask.to(truth), seconds)
