# SPDX-License-Identifier: Apache-2.0
"""Every trainer holds one `Repairs`, the face of the whole method.

Progressive distillation (Difix3D+, Wu et al., CVPR 2025) from end to end: the schedule says when and from where, the
model renders, photos that show the same are found, the enhancer repairs, the gate weighs every pixel, the store keeps
the views, and the sampler draws what a training step learns from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.distill.distiller import Distiller, Progress, RoundReport
from harmonizer_ns.distill.gate import Gate
from harmonizer_ns.distill.schedule import ProgressiveSchedule
from harmonizer_ns.distill.settings import DistillSettings
from harmonizer_ns.distill.store import PseudoViewSampler, PseudoViewStore
from harmonizer_ns.distill.targets import PoseTransform, choose_targets
from harmonizer_ns.enhancers.gpu_sharing import ParkedEnhancer
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.enhancers.stream import HISTORY, EnhancerStream
from harmonizer_ns.references import Photographed, ReferenceSelector
from harmonizer_ns.types import Cameras, Frames, PseudoView, Renderer


class Captured(Photographed, Protocol):
    """What repairs ask of a capture."""

    @property
    def train(self) -> Sequence[int]:
        """The photos to learn from; without any, the cameras only say where the scene is known."""
        ...


class Repairs:
    """Repairs what the model shows at new views, and hands out the repairs to learn from.

    A trainer calls `plan` once, `run` whenever a round is `due`, and `draw` in every step. With the enhancer "none", or
    without rounds, nothing is due and nothing is drawn. Single renders are enhanced with or without a plan.

    Args:
        settings: what is repaired, when, and how much of it is believed.
        capture: the photos.
        renderer: the model in training.
        say: told what is going on.
        report_images: how many views of a round are reported with pictures.
        report_size: longest side of those pictures, in pixels.
    """

    def __init__(
        self,
        settings: DistillSettings,
        capture: Captured,
        renderer: Renderer,
        say: Callable[[str], None] = print,
        report_images: float = math.inf,
        report_size: float = math.inf,
    ) -> None:
        self.settings, self.capture, self.renderer, self.say = settings, capture, renderer, say
        self.report_images, self.report_size = report_images, report_size
        self.distiller: Distiller | None = None
        self._origin = "none"

    @cached_property
    def enhancer(self) -> ParkedEnhancer:
        """The enhancer that the settings name, loaded at first use."""
        return ParkedEnhancer(load_enhancer(self.settings.enhancer))

    @cached_property
    def references(self) -> ReferenceSelector:
        """Finds real photos for a view: for the enhancer, and for the gate even when the enhancer ignores them."""
        count = self.settings.num_references if self.capture.train else 0
        return ReferenceSelector(self.capture, count, self.capture.train or None)

    @cached_property
    def known(self) -> list[Cameras]:
        """Where the scene has been looked at: the training cameras."""
        return [self.capture.cameras[i] for i in self.capture.train] or self.capture.cameras

    def plan(
        self, first_step: int, last_step: int, held_out: list[Cameras], transform: PoseTransform | None = None
    ) -> None:
        """Choose the target views, lay out the rounds of a run of these steps, and load the enhancer.

        Args:
            first_step: of the run.
            last_step: of the run.
            held_out: poses of the held-out views.
            transform: brings a camera path's OpenGL poses into the frame that is trained in.

        Raises:
            InputError: on targets or an enhancer that cannot be had.
        """
        settings = self.settings
        steps = settings.round_steps(first_step, last_step)
        if not steps:
            return
        targets, self._origin = choose_targets(settings, self.known, self.capture.points, held_out, self.say, transform)
        self.say(f"{len(targets)} target views, {self._origin}")
        probability = settings.pseudo_probability if self.capture.train else 1.0
        self.distiller = Distiller(
            ProgressiveSchedule(self.known, targets, steps, max(last_step, steps[-1]), settings.step_fraction),
            self.renderer,
            self.references,
            self.enhancer,
            Gate(settings.gate),
            PseudoViewStore(settings.store_capacity),
            PseudoViewSampler(probability, settings.pseudo_loss_weight),
            self.report_images,
            self.report_size,
        )

    def due(self, step: int) -> bool:
        """Whether a round should run before this training step."""
        return self.distiller is not None and self.distiller.due(step)

    def run(self, step: int, progress: Progress = iter) -> RoundReport:
        """Repair one view on the way to every target; an interrupted round changes nothing."""
        assert self.distiller is not None
        report = self.distiller.run(step, progress)
        self.enhancer.rest()
        return report

    def views_of(self, step: int) -> list[PseudoView]:
        """The pseudo-views of the round at this step, as they are stored."""
        return [] if self.distiller is None else [view for view in self.distiller.store if view.step == step]

    def adopt(self, step: int, views: list[PseudoView]) -> None:
        """Take over a round that another process has run."""
        assert self.distiller is not None
        self.distiller.adopt(step, views)

    def draw(self, step: int) -> PseudoView | None:
        """A pseudo-view to learn from besides a photo in this step, or None."""
        return None if self.distiller is None else self.distiller.draw(step)

    def photos(self, view: Cameras) -> Frames | None:
        """The photos that show most of what a pinhole view shows, with the model's depth."""
        return self.references.select(view, self.renderer)

    def stream(self, length: int = HISTORY) -> EnhancerStream:
        """Enhances renders in the order of a video, each knowing the last few; with length 0 each by itself."""
        return EnhancerStream(self.enhancer, length)

    @torch.no_grad()
    def enhance(self, frames: Frames, stream: EnhancerStream | None = None) -> Float[Tensor, "1 3 h w"]:
        """A render (one frame) as the enhancer would show it, given photos; by itself, or as the next of a stream."""
        stream = stream or self.stream(length=0)
        return stream.enhance(frames, self.photos(frames.cameras)).rgb.clamp(0, 1)

    def summary(self) -> dict[str, Any]:
        """How the pseudo-views were made, for reports."""
        distiller = self.distiller
        return {
            "enhancer": self.settings.enhancer,
            "targets": self._origin,
            "rounds": 0 if distiller is None else distiller.schedule.rounds,
            "pseudo_views": 0 if distiller is None else len(distiller.store),
        }

    def state_dict(self) -> dict[str, Any] | None:
        """What an exact resume needs, as plain tensors, lists and numbers; None without rounds."""
        return None if self.distiller is None else self.distiller.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Continue where ``state_dict`` was taken; a run without rounds has no state."""
        if self.distiller is not None and state is not None:
            self.distiller.load_state_dict(state)
