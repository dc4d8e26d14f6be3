# SPDX-License-Identifier: Apache-2.0
"""Progressive distillation: a round repairs what the model shows at new views, for it to learn from the repairs.

A round is a step from the seen toward the wanted views, as in Difix3D+ (Wu et al., CVPR 2025), with scale-free steps,
references by covisibility, gated repairs and one store for the views of all rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from harmonizer_ns.distill.gate import Gate
from harmonizer_ns.distill.schedule import ProgressiveSchedule
from harmonizer_ns.distill.store import PseudoViewSampler, PseudoViewStore
from harmonizer_ns.enhancers.base import Context, Enhancer, Repaired
from harmonizer_ns.images import beside, resize
from harmonizer_ns.references import ReferenceSelector
from harmonizer_ns.types import Cameras, Frames, PseudoView, Renderer

Progress = Callable[[Sequence[Cameras]], Iterable[Cameras]]
"""Wraps the cameras of a round while they are worked through, as `progress_bar` does."""

MIN_COVERAGE = 0.02
"""Views whose mean alpha is below this show nothing and are skipped."""

PICTURES = ("render", "repaired", "reference", "weight")
"""Order of the pictures in a strip, left to right."""


@dataclass(frozen=True)
class ViewReport:
    """What became of one view of a round.

    Args:
        target: index of the target.
        position: how far along its way the view was, in [0, 1].
        camera: where it was rendered from.
        mean_weight: mean trust in its pixels, 0 when skipped.
        skipped: why it was not used, or None.
        images: small pictures on the CPU, ``c h w`` in [0, 1]: ``render``, ``repaired``, ``reference``, ``weight``.
    """

    target: int
    position: float
    camera: Cameras
    mean_weight: float = 0.0
    skipped: str | None = None
    images: dict[str, Float[Tensor, "c h w"]] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundReport:
    """What a round of repairs did: its training step and its views in the order of the targets."""

    step: int
    views: list[ViewReport]

    @property
    def used(self) -> list[ViewReport]:
        """The views that joined the store."""
        return [view for view in self.views if view.skipped is None]

    @property
    def mean_weight(self) -> float:
        """Mean trust over the views used; 0 when none was."""
        return sum(view.mean_weight for view in self.used) / max(1, len(self.used))

    @property
    def mean_position(self) -> float:
        """How far the round was along the way to the targets, in [0, 1]."""
        return sum(view.position for view in self.views) / max(1, len(self.views))

    def lines(self) -> list[str]:
        """What the round did in words, and why views were skipped."""
        done = f"Repaired {len(self.used)} of {len(self.views)} views at step {self.step}: "
        done += f"{self.mean_position:.0%} of the way, mean weight {self.mean_weight:.2f}"
        skipped = [f"Target {view.target} skipped: {view.skipped}" for view in self.views if view.skipped]
        return [done, *skipped]


class Distiller:
    """Owns the rounds: it knows where to look, what to repair, what to keep, and what to train on.

    Args:
        schedule: when, and from where.
        renderer: the model in training.
        references: finds real photos for a view.
        enhancer: repairs a rendered view.
        gate: weighs a repair per pixel.
        store: keeps the repairs.
        sampler: draws from the store.
        report_images: how many views of a round are reported with pictures; infinity for all.
        report_size: longest side of those pictures, in pixels; infinity for their own size.
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
        report_images: float,
        report_size: float,
    ) -> None:
        self.schedule, self.renderer, self.references = schedule, renderer, references
        self.enhancer, self.gate, self.store, self.sampler = enhancer, gate, store, sampler
        self.report_images, self.report_size = report_images, report_size

    def due(self, step: int) -> bool:
        """Whether a round should run at this training step."""
        return self.schedule.due(step)

    def draw(self, step: int) -> PseudoView | None:
        """A pseudo-view to learn from besides a photo in this step, or None.

        Trust falls linearly to 0 until the schedule's end: repairs show a rough scene where it is wrong, and in the end
        the scene is sharper than they are.
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
        self.adopt(step, views)
        return RoundReport(step, reports)

    def adopt(self, step: int, views: list[PseudoView]) -> None:
        """Take the views of a round that is complete, here or in another process."""
        self.store.add(views)
        self.schedule.advance(step)

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
        return f"nothing to see there (mean alpha {coverage:.3f})" if coverage < MIN_COVERAGE else None

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


def progress_bar(step: int, console: Console | None = None) -> Progress:
    """A bar on the terminal over the views of a round."""
    return lambda cameras: track(cameras, f"Repairing views at step {step}", console=console, transient=True)


def picture_strip(images: dict[str, Float[Tensor, "c h w"]]) -> Float[Tensor, "3 h wide"]:
    """The pictures of one view side by side, in the order of `PICTURES`; missing ones are left out."""
    return beside([images[name] for name in PICTURES if name in images])
