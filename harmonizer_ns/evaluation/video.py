# SPDX-License-Identifier: Apache-2.0
"""Videos are measured frame by frame: do surfaces keep their colour, do still frames keep still, is it one scene?

Truth is measured as everything else is: what it scores is the floor, made of moving lights and errors of the flow.
"""

from __future__ import annotations

from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.evaluation.networks import Features, Networks
from harmonizer_ns.evaluation.quality import Scores, means
from harmonizer_ns.flow import Flow, warp_by_flow
from harmonizer_ns.views import JudgedView, Picture

STILL = 2 / 255
"""Two frames whose truth differs by less than this, on average over colours and pixels, stand still."""
EXACT = "flow of depth and cameras, where both frames show the same surface"
ESTIMATED = "OpenCV's DIS at its medium preset between the truths, where the flow there and back agree"
NO_FVD = "no library that is installed here computes it from weights on this machine"


class VideoMeasures:
    """Measures the videos of one clip, by their names; it remembers the frames before, nothing else.

    Args:
        networks: those that there are.
    """

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._seers = {"subject_consistency": networks.subject(), "background_consistency": networks.background()}
        self._clips: dict[str, _Clip] = {}
        networks.lacks("fvd", NO_FVD)

    @torch.no_grad()
    def add(self, pictures: dict[str, Picture], flow: Flow | None, still: bool) -> None:
        """Take the next frame of every video.

        Args:
            pictures: by the videos' names; of one size.
            flow: from this frame to the one before, valid where both show the same; None at the first frame and
                where it is not known.
            still: whether camera and scene stood still since the frame before.
        """
        for name, picture in pictures.items():
            clip = self._clips.setdefault(name, _Clip())
            clip.add(picture[None], flow, still, self._seers)

    def scores(self) -> dict[str, Scores]:
        """Give each video's measures; None where no two frames could be compared."""
        found = {name: clip.scores() for name, clip in self._clips.items()}
        for measure, why in (("flicker", "no two successive frames stand still"), ("warp_error", "no flow is known")):
            if any(scores[measure] is None for scores in found.values()):
                self._networks.lacks(measure, why)
        return found


class _Clip:
    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._features: dict[str, list[Tensor]] = {}
        self._warp: list[float] = []
        self._flicker: list[float] = []
        self._same: dict[str, list[float]] = {}

    def add(self, image: Tensor, flow: Flow | None, still: bool, seers: dict[str, Features | None]) -> None:
        if self._before is not None:
            error = None if flow is None else squared_warp_error(image, self._before, flow)
            self._warp += [] if error is None else [error]
            self._flicker += [(image - self._before).abs().mean().item()] if still else []
        for name, seer in seers.items():
            if seer is not None:
                self._compare(name, seer(image)[0].cpu())
        self._before = image

    def _compare(self, name: str, feature: Float[Tensor, " c"]) -> None:
        """Add VBench's similarity of a frame: the mean of those to the frame before and to the first one."""
        if name in self._features:
            first, before = self._features[name]
            values = [max(0.0, float(feature @ other)) for other in (before, first)]
            self._same.setdefault(name, []).append(fmean(values))
            self._features[name] = [first, feature]
        else:
            self._features[name] = [feature, feature]

    def scores(self) -> Scores:
        return {
            "warp_error": fmean(self._warp) ** 0.5 if self._warp else None,
            "flicker": fmean(self._flicker) if self._flicker else None,
            **{
                name: fmean(self._same[name]) if name in self._same else None
                for name in ("subject_consistency", "background_consistency")
            },
            "fvd": None,
        }


class Clips:
    """Measures the clips of a scene as its views come by; each clip counts once in the averages.

    Args:
        networks: those that there are.
    """

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._before: JudgedView | None = None
        self._clips: list[VideoMeasures] = []

    def add(self, view: JudgedView) -> None:
        """Take the next view; one that follows none begins another clip, and single pictures are passed over."""
        before, self._before = self._before, view
        if view.place is None:
            return
        if before is None or not view.follows(before):
            self._clips.append(VideoMeasures(self._networks))
            self._clips[-1].add(view.all_pictures, None, still=False)
        else:
            still = float((view.truth - before.truth).abs().mean()) < STILL
            self._clips[-1].add(view.all_pictures, view.flow_to(before), still)
            self._networks.recipes["warp_error"] = EXACT if view.geometry and before.geometry else ESTIMATED

    def scores(self) -> dict[str, Scores]:
        """Give the measures of the scene's videos, by role; none without clips."""
        found = [clip.scores() for clip in self._clips]
        roles = dict.fromkeys(role for scores in found for role in scores)
        return {role: means([scores[role] for scores in found]) for role in roles}


def squared_warp_error(image: Float[Tensor, "1 3 h w"], before: Float[Tensor, "1 3 h w"], flow: Flow) -> float | None:
    """Average ``(V_t(p) - V_{t-1}(p + f_t(p)))^2`` over the pixels that both frames show (Lai et al. 2018).

    None where there are none. The error of a video is the root of the mean over its frames.
    """
    valid = flow.valid.to(image.device)
    if not valid.any():
        return None
    squared = (image - warp_by_flow(before, flow.offset.to(image))).square().mean(1, keepdim=True)
    return squared[valid].mean().item()
