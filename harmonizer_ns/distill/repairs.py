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
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from harmonizer_ns.devices import is_out_of_memory
from harmonizer_ns.distill.gate import Gate
from harmonizer_ns.distill.rounds import Progress, RoundReport, ViewReport
from harmonizer_ns.distill.schedule import ProgressiveSchedule
from harmonizer_ns.distill.settings import DistillSettings
from harmonizer_ns.distill.store import PseudoViewSampler, PseudoViewStore, StoredView, encode
from harmonizer_ns.distill.targets import PoseTransform, choose_targets
from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.enhancers.gpu_sharing import ParkedEnhancer
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.enhancers.stream import HISTORY, EnhancerStream
from harmonizer_ns.errors import first_line
from harmonizer_ns.finite import all_finite
from harmonizer_ns.images import to_uint8
from harmonizer_ns.random_state import random_state, set_random_state
from harmonizer_ns.references import Photographed, ReferenceSelector
from harmonizer_ns.types import Cameras, Frames, PseudoView, Renderer

MIN_COVERAGE = 0.02
"""Views whose mean alpha is below this show nothing and are skipped."""
MOST_FAILED = 3
"""Rounds in which the enhancer failed after which repairs are off."""
_PARTS = ("schedule", "store", "sampler")
"""What a run's state is made of."""


class EnhancerError(Exception):
    """An enhancer raised something or returned what is no picture; the message says what."""


class Repairs:
    """Repairs what the model shows at new views, and hands out the repairs to learn from.

    A trainer calls `plan` once, `run` whenever a round is `due`, and `draw` in every step. With the enhancer "none", or
    without rounds, nothing is due and nothing is drawn. Single renders are enhanced with or without a plan.

    Args:
        settings: what is repaired, when, and how much of it is believed.
        capture: the photos; without any to learn from, its cameras only say where the scene is known.
        renderer: the model in training.
        say: told what is going on.
    """

    def __init__(
        self,
        settings: DistillSettings,
        capture: Photographed,
        renderer: Renderer,
        say: Callable[[str], None] = print,
    ) -> None:
        self.settings, self.capture, self.renderer, self.say = settings, capture, renderer, say
        self.schedule: ProgressiveSchedule | None = None
        self.store = PseudoViewStore(settings.store_capacity)
        self._origin = "none"
        self.failed_rounds = 0

    @cached_property
    def enhancer(self) -> ParkedEnhancer:
        """The enhancer that the settings name, loaded at first use."""
        return ParkedEnhancer(load_enhancer(self.settings.enhancer))

    @cached_property
    def gate(self) -> Gate:
        """Weighs repairs, as strictly as suits the enhancer."""
        return Gate(self.settings.gate, self.settings.fades(self.enhancer.errors_repeat))

    @cached_property
    def sampler(self) -> PseudoViewSampler:
        """Draws the pseudo-views, as often as suits the enhancer."""
        probability = self.settings.pseudo_probability(self.enhancer.errors_repeat) if self.capture.train else 1.0
        return PseudoViewSampler(probability, self.settings.pseudo_loss_weight)

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
        """Whether a round should run before this training step; never again once `MOST_FAILED` of them have failed."""
        return self.schedule is not None and self.failed_rounds < MOST_FAILED and self.schedule.due(step)

    def draw(self, step: int, device: torch.device | str = "cpu") -> PseudoView | None:
        """A pseudo-view, on a device, to learn from besides a photo in this step, or None.

        Trust that fades (`DistillSettings.trust`) falls linearly to 0 until the schedule's end: such repairs show a
        rough scene where it is wrong, and in the end the scene is sharper than they are.
        """
        if self.schedule is None:
            return None
        fades = self.settings.fades(self.enhancer.errors_repeat)
        return self.sampler.draw(self.store, self.schedule.remaining(step) if fades else 1.0, device)

    # --- a round ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def run(self, step: int, progress: Progress = iter) -> RoundReport:
        """Repair one view on the way to every target.

        A round in which the enhancer fails is skipped. Otherwise nothing changes before the round is complete: an
        exception in the middle leaves schedule, store and random generators as they were, and the round can run again
        with the same outcome.

        Args:
            step: the training step.
            progress: wraps the cameras while they are worked through.
        """
        assert self.schedule is not None
        before, position = random_state(), self.schedule.upcoming_position()
        try:
            views, reports = self._round(step, progress)
        except BaseException as error:
            if not isinstance(error, EnhancerError) and not is_out_of_memory(error):
                set_random_state(before)
                raise
            failure = str(error) if isinstance(error, EnhancerError) else "memory ran out, at half the size as well"
        else:
            failure = None
        self.enhancer.rest()
        if failure is not None:
            self.skip(step)
            return RoundReport(step, position, [], f"{failure}; {self._left_of_trust()}")
        self.adopt(step, views)
        return RoundReport(step, position, reports)

    def _round(self, step: int, progress: Progress) -> tuple[list[StoredView], list[ViewReport]]:
        assert self.schedule is not None
        views: list[StoredView] = []
        reports: list[ViewReport] = []
        for target, camera in enumerate(progress(self.schedule.upcoming())):
            report, view = self._repair_in_memory(step, target, camera)
            reports.append(report)
            views += [] if view is None else [view]
        return views, reports

    def adopt(self, step: int, views: list[StoredView]) -> None:
        """Take the views of a round that is complete, here or in another process."""
        assert self.schedule is not None
        self.store.add(views)
        self.schedule.advance(step)

    def skip(self, step: int) -> None:
        """Count a round that failed, here or in another process."""
        assert self.schedule is not None
        self.failed_rounds += 1
        self.schedule.skip(step)

    def _left_of_trust(self) -> str:
        if self.failed_rounds < MOST_FAILED:
            return f"after {MOST_FAILED} failed rounds repairs are off, this was number {self.failed_rounds}"
        return f"repairs are off from now on, {self.failed_rounds} rounds have failed"

    def _repair_in_memory(self, step: int, target: int, camera: Cameras) -> tuple[ViewReport, StoredView | None]:
        """Repair one view; where memory does not suffice, once again at half its size."""
        try:
            return self._repair(step, target, camera)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here, without the error, is what it held of memory free.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.say(f"Out of memory for target {target} at step {step}: it is repaired at half its size")
        half = camera.resized(max(1, camera.width // 2), max(1, camera.height // 2))
        return self._repair(step, target, half)

    def _repair(self, step: int, target: int, camera: Cameras) -> tuple[ViewReport, StoredView | None]:
        """Render, find photos, repair and weigh one view; the host waits for a GPU five times."""
        render = self.renderer.render(camera)
        reason = _unusable(render)
        if reason:
            return ViewReport(target, skipped=reason), None
        context = Context(references=(self.photos(camera),), learning=True)
        repaired = self._enhanced(render, context)
        weight = self.gate.weight(render, repaired, context)
        mean_weight = weight.mean().item()
        skipped = None if mean_weight > 0 else "no pixel of the repair can be trusted"
        view = encode(PseudoView(repaired.rgb[0], render.rgb[0], weight[0], camera, step, target))
        report = ViewReport(target, mean_weight, skipped, _images(view, context))
        return report, None if skipped else view

    def _enhanced(self, render: Frames, context: Context) -> Repaired:
        """What the enhancer makes of a render.

        Raises:
            EnhancerError: whatever is wrong with it. Lack of memory passes.
        """
        try:
            return self.enhancer.enhance(render, context).checked(render)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise EnhancerError(_told(error)) from error

    # --- single renders -----------------------------------------------------------------------------------------------

    def photos(self, view: Cameras) -> Frames | None:
        """The photos that show most of what a pinhole view shows, with the model's depth."""
        return self.references.select(view, self.renderer)

    def stream(self, length: int = HISTORY) -> EnhancerStream:
        """Enhances renders in the order of a video, each knowing the last few; with length 0 each by itself."""
        return EnhancerStream(self.enhancer, length)

    @torch.no_grad()
    def enhance(self, frames: Frames, stream: EnhancerStream | None = None) -> Float[Tensor, "1 3 h w"] | None:
        """A render (one frame) as the enhancer would show it, given photos; by itself, or as the next of a stream.

        None where the enhancer fails, which is said: no run ends for that.
        """
        stream, photos = stream or self.stream(length=0), self.photos(frames.cameras)
        try:
            return stream.enhance(frames, photos).checked(frames).rgb
        except Exception as error:
            self.say(_told(error))
            return None

    # --- state --------------------------------------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """How the pseudo-views were made, for reports."""
        return {
            "enhancer": self.settings.enhancer,
            "targets": self._origin,
            "rounds": 0 if self.schedule is None else self.schedule.rounds,
            "pseudo_views": len(self.store),
            "failed_rounds": self.failed_rounds,
        }

    def state_dict(self) -> dict[str, Any] | None:
        """What an exact resume needs, as plain tensors, lists and numbers; None without rounds.

        The store writes its views beside the checkpoint (`views_beside`).
        """
        if self.schedule is None:
            return None
        return {name: getattr(self, name).state_dict() for name in _PARTS} | {"failed_rounds": self.failed_rounds}

    def load_state_dict(self, state: dict[str, Any] | None, views: Path) -> None:
        """Continue where ``state_dict`` was taken; a run without rounds has no state.

        Args:
            state: as it was taken.
            views: the folder of its pseudo-views.

        Raises:
            InputError: naming a pseudo-view's file that is missing or damaged.
        """
        if self.schedule is not None and state is not None:
            self.schedule.load_state_dict(state["schedule"])
            self.store.load_state_dict(state["store"], views)
            self.sampler.load_state_dict(state["sampler"])
            self.failed_rounds = state.get("failed_rounds", 0)


def _told(error: Exception) -> str:
    """What an enhancer did wrong, and where."""
    place = extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    return f"the enhancer failed: {type(error).__name__}: {first_line(error)} ({where})"


def _images(view: StoredView, context: Context) -> dict[str, UInt8[Tensor, "c h w"]]:
    """Pictures for the report."""
    reference = context.references[0]
    shown = {} if reference is None else {"reference": to_uint8(reference.rgb[0]).cpu()}
    return {"render": view.render, "repaired": view.rgb, **shown, "weight": view.weight}


def _unusable(render: Frames) -> str | None:
    """Why a render cannot be repaired, or None."""
    images = (render.rgb, render.alpha, render.depth)
    coverage, *sums = torch.stack([render.alpha.mean(), *(image.sum() for image in images)]).tolist()
    if not all(map(math.isfinite, sums)) and not all_finite(images):  # sums may be too large
        return "the render contains NaN or infinity"
    return f"nothing to see there (mean alpha {coverage:.3f})" if coverage < MIN_COVERAGE else None
