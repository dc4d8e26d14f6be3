# SPDX-License-Identifier: Apache-2.0
"""Progressive distillation: repair what the model shows at new views and let it learn from the repairs.

A step from the seen toward the wanted views, as in Difix3D+ (Wu et al., CVPR 2025), with scale-free steps, references
by covisibility, gated repairs and one store for the views of all rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from harmonizer_ns.distill.gate import Gate
from harmonizer_ns.references import ReferenceSelector
from harmonizer_ns.distill.report import RoundReport, ViewReport
from harmonizer_ns.distill.sampler import PseudoViewSampler
from harmonizer_ns.distill.schedule import ProgressiveSchedule
from harmonizer_ns.distill.store import PseudoViewStore
from harmonizer_ns.enhancers.base import Context, Enhancer, Repaired
from harmonizer_ns.images import resize
from harmonizer_ns.types import Cameras, Frames, PseudoView, Renderer

Progress = Callable[[Sequence[Cameras]], Iterable[Cameras]]
"""Wraps the cameras of a round while they are worked through, for example ``tqdm`` or ``rich.progress.track``."""


class Distiller:
    """Owns the rounds: where to look, what to repair, what to keep, and what to train on.

    Args:
        schedule: when, and from where.
        renderer: the model in training.
        references: finds real photos for a view.
        enhancer: repairs a rendered view.
        gate: weighs a repair per pixel.
        store: keeps the repairs.
        sampler: draws from the store.
        min_coverage: views whose mean alpha is below this show nothing and are skipped.
        report_images: how many views of a round are reported with pictures.
        report_size: longest side of those pictures, in pixels.
    """

    def __init__(
        self,
        schedule: ProgressiveSchedule,
        renderer: Renderer,
        references: ReferenceSelector,
        enhancer: Enhancer,
        gate: Gate,
        store: PseudoViewStore,
        sampler: PseudoViewSampler,
        min_coverage: float = 0.02,
        report_images: int = 4,
        report_size: int = 256,
    ) -> None:
        self.schedule, self.renderer, self.references = schedule, renderer, references
        self.enhancer, self.gate, self.store, self.sampler = enhancer, gate, store, sampler
        self.min_coverage = min_coverage
        self.report_images, self.report_size = report_images, report_size

    def due(self, step: int) -> bool:
        """Whether a round should run at this training step."""
        return self.schedule.due(step)

    def draw(self, step: int) -> PseudoView | None:
        """A pseudo-view to learn from in this step, or None to learn from a photo.

        Trust falls linearly to 0 until the schedule's end. Repairs show a rough scene where it is wrong; a good scene
        is sharper than they are, and photos should have the last word.
        """
        return self.sampler.draw(self.store, self.schedule.remaining(step))

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
        cameras = self.schedule.upcoming()
        positions = self.schedule.upcoming_positions()
        views: list[PseudoView] = []
        reports: list[ViewReport] = []
        for target, camera in enumerate(progress(cameras)):
            report, view = self._repair(step, target, positions[target], camera)
            reports.append(report)
            views += [] if view is None else [view]
        self.store.add(views)
        self.schedule.advance(step)
        return RoundReport(step, reports)

    def _repair(self, step: int, target: int, position: float, camera: Cameras) -> tuple[ViewReport, PseudoView | None]:
        """Render, find photos, repair and weigh one view."""
        render = self.renderer.render(camera)
        reason = self._unusable(render)
        if reason:
            return ViewReport(target, position, camera, skipped=reason), None
        context = Context(references=(self.references.select(camera, self.renderer),), learning=True)
        repaired = _checked(self.enhancer.enhance(render, context), render)
        weight = self.gate.weight(render, repaired, context)
        mean_weight = weight.mean().item()
        images = self._images(target, render, repaired, weight, context)
        skipped = None if mean_weight > 0 else "no pixel of the repair can be trusted"
        report = ViewReport(target, position, camera, mean_weight, skipped, images)
        if skipped:
            return report, None
        return report, PseudoView(repaired.rgb[0], render.rgb[0], weight[0], camera, step, target)

    def _unusable(self, render: Frames) -> str | None:
        """Why a render cannot be repaired, or None."""
        if not all(torch.isfinite(image).all() for image in (render.rgb, render.alpha, render.depth)):
            return "the render contains NaN or infinity"
        coverage = render.alpha.mean().item()
        return f"nothing to see there (mean alpha {coverage:.3f})" if coverage < self.min_coverage else None

    def _images(
        self, target: int, render: Frames, repaired: Repaired, weight: Tensor, context: Context
    ) -> dict[str, Tensor]:
        """Small pictures for the report of the first few views."""
        if target >= self.report_images:
            return {}
        images = {"render": render.rgb, "repaired": repaired.rgb, "weight": weight}
        reference = context.references[0]
        if reference is not None:
            images["reference"] = reference.rgb[:1]
        scale = min(1.0, self.report_size / max(render.cameras.width, render.cameras.height))
        size = (max(1, round(render.cameras.height * scale)), max(1, round(render.cameras.width * scale)))
        return {name: resize(image, *size)[0].cpu() for name, image in images.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs to continue identically: plain tensors, lists and numbers."""
        return {
            "schedule": self.schedule.state_dict(),
            "store": self.store.state_dict(),
            "sampler": self.sampler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken."""
        self.schedule.load_state_dict(state["schedule"])
        self.store.load_state_dict(state["store"])
        self.sampler.load_state_dict(state["sampler"])


def _checked(repaired: Repaired, render: Frames) -> Repaired:
    """The enhancer's output, clamped to [0, 1] in new tensors.

    Raises:
        ValueError: on a wrong shape or values that are not finite.
    """
    for name, image, like in (
        ("rgb", repaired.rgb, render.rgb),
        ("confidence", repaired.confidence, render.alpha),
    ):
        if image.shape != like.shape:
            raise ValueError(f"the enhancer returned {name} of shape {tuple(image.shape)}, not {tuple(like.shape)}")
        if not torch.isfinite(image).all():
            raise ValueError(f"the enhancer returned {name} with NaN or infinity")
    return Repaired(repaired.rgb.to(render.rgb).clamp(0.0, 1.0), repaired.confidence.to(render.rgb).clamp(0.0, 1.0))
