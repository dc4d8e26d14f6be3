# SPDX-License-Identifier: Apache-2.0
"""Every trainer holds one `Repairs`, the whole method from end to end.

Progressive distillation (Difix3D+, Wu et al., CVPR 2025), with scale-free steps, references by covisibility, gated
repairs and one store for the views of all rounds: the schedule says when and from where, the model renders, photos that
show the same are found, the enhancer repairs, the gate weighs every pixel, the store keeps the views, and the sampler
draws what a training step learns from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.distill.gate import Gate
from harmonizer_ns.distill.rounds import Progress, RoundReport, ViewReport
from harmonizer_ns.distill.schedule import ProgressiveSchedule
from harmonizer_ns.distill.settings import DistillSettings
from harmonizer_ns.distill.store import PseudoViewSampler, PseudoViewStore
from harmonizer_ns.distill.targets import PoseTransform, choose_targets
from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.enhancers.gpu_sharing import ParkedEnhancer
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.enhancers.stream import HISTORY, EnhancerStream
from harmonizer_ns.images import resize
from harmonizer_ns.references import Photographed, ReferenceSelector
from harmonizer_ns.types import Cameras, Frames, PseudoView, Renderer

MIN_COVERAGE = 0.02
"""Views whose mean alpha is below this show nothing and are skipped."""
_PARTS = ("schedule", "store", "sampler")
"""What a run's state is made of."""


class Repairs:
    """Repairs what the model shows at new views, and hands out the repairs to learn from.

    A trainer calls `plan` once, `run` whenever a round is `due`, and `draw` in every step. With the enhancer "none", or
    without rounds, nothing is due and nothing is drawn. Single renders are enhanced with or without a plan.

    Args:
        settings: what is repaired, when, and how much of it is believed.
        capture: the photos; without any to learn from, its cameras only say where the scene is known.
        renderer: the model in training.
        say: told what is going on.
        report_images: how many views of a round are reported with pictures.
        report_size: longest side of those pictures, in pixels.
    """

    def __init__(
        self,
        settings: DistillSettings,
        capture: Photographed,
        renderer: Renderer,
        say: Callable[[str], None] = print,
        report_images: float = math.inf,
        report_size: float = math.inf,
    ) -> None:
        self.settings, self.capture, self.renderer, self.say = settings, capture, renderer, say
        self.report_images, self.report_size = report_images, report_size
        self.schedule: ProgressiveSchedule | None = None
        self.gate, self.store = Gate(settings.gate), PseudoViewStore(settings.store_capacity)
        probability = settings.pseudo_probability if capture.train else 1.0
        self.sampler = PseudoViewSampler(probability, settings.pseudo_loss_weight)
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
        capture, settings = self.capture, self.settings
        steps = settings.round_steps(first_step, last_step)
        if not steps:
            return
        known = [capture.cameras[i] for i in capture.train] or capture.cameras
        targets, self._origin = choose_targets(settings, known, capture.points, held_out, self.say, transform)
        self.say(f"{len(targets)} target views, {self._origin}")
        _ = self.references, self.enhancer  # what is missing is told before the first step
        last_step = max(last_step, steps[-1])
        self.schedule = ProgressiveSchedule(known, targets, steps, last_step, settings.step_fraction)

    def due(self, step: int) -> bool:
        """Whether a round should run before this training step."""
        return self.schedule is not None and self.schedule.due(step)

    def draw(self, step: int) -> PseudoView | None:
        """A pseudo-view to learn from besides a photo in this step, or None.

        Trust falls linearly to 0 until the schedule's end: repairs show a rough scene where it is wrong, and in the end
        the scene is sharper than they are.
        """
        return None if self.schedule is None else self.sampler.draw(self.store, self.schedule.remaining(step))

    # --- a round ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def run(self, step: int, progress: Progress = iter) -> RoundReport:
        """Repair one view on the way to every target.

        Nothing changes before the round is complete: an exception in the middle leaves schedule and store as they were,
        and the round can run again with the same outcome.

        Args:
            step: the training step.
            progress: wraps the cameras while they are worked through.

        Raises:
            ValueError: when the enhancer returns NaN or a wrong shape.
        """
        assert self.schedule is not None
        position = self.schedule.upcoming_position()
        views: list[PseudoView] = []
        reports: list[ViewReport] = []
        for target, camera in enumerate(progress(self.schedule.upcoming())):
            report, view = self._repair(step, target, camera)
            reports.append(report)
            views += [] if view is None else [view]
        self.adopt(step, views)
        self.enhancer.rest()
        return RoundReport(step, position, reports)

    def adopt(self, step: int, views: list[PseudoView]) -> None:
        """Take the views of a round that is complete, here or in another process."""
        assert self.schedule is not None
        self.store.add(views)
        self.schedule.advance(step)

    def _repair(self, step: int, target: int, camera: Cameras) -> tuple[ViewReport, PseudoView | None]:
        """Render, find photos, repair and weigh one view."""
        render = self.renderer.render(camera)
        reason = _unusable(render)
        if reason:
            return ViewReport(target, skipped=reason), None
        context = Context(references=(self.photos(camera),), learning=True)
        repaired = self.enhancer.enhance(render, context).checked(render)
        weight = self.gate.weight(render, repaired, context)
        mean_weight = weight.mean().item()
        skipped = None if mean_weight > 0 else "no pixel of the repair can be trusted"
        images = self._images(render, repaired, weight, context) if target < self.report_images else {}
        report = ViewReport(target, mean_weight, skipped, images)
        if skipped:
            return report, None
        return report, PseudoView(repaired.rgb[0], render.rgb[0], weight[0], camera, step, target)

    def _images(self, render: Frames, repaired: Repaired, weight: Tensor, context: Context) -> dict[str, Tensor]:
        """Small pictures for the report."""
        images = {"render": render.rgb, "repaired": repaired.rgb}
        reference = context.references[0]
        if reference is not None:
            images["reference"] = reference.rgb[:1]
        images["weight"] = weight
        scale = min(1.0, self.report_size / max(render.cameras.width, render.cameras.height))
        size = (max(1, round(render.cameras.height * scale)), max(1, round(render.cameras.width * scale)))
        return {name: resize(image, *size)[0].cpu() for name, image in images.items()}

    # --- single renders -----------------------------------------------------------------------------------------------

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

    # --- state --------------------------------------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """How the pseudo-views were made, for reports."""
        return {
            "enhancer": self.settings.enhancer,
            "targets": self._origin,
            "rounds": 0 if self.schedule is None else self.schedule.rounds,
            "pseudo_views": len(self.store),
        }

    def state_dict(self) -> dict[str, Any] | None:
        """What an exact resume needs, as plain tensors, lists and numbers; None without rounds."""
        if self.schedule is None:
            return None
        return {name: getattr(self, name).state_dict() for name in _PARTS}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Continue where ``state_dict`` was taken; a run without rounds has no state."""
        if self.schedule is not None and state is not None:
            for name in _PARTS:
                getattr(self, name).load_state_dict(state[name])


def _unusable(render: Frames) -> str | None:
    """Why a render cannot be repaired, or None."""
    if not all(torch.isfinite(image).all() for image in (render.rgb, render.alpha, render.depth)):
        return "the render contains NaN or infinity"
    coverage = render.alpha.mean().item()
    return f"nothing to see there (mean alpha {coverage:.3f})" if coverage < MIN_COVERAGE else None
