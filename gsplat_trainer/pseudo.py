# SPDX-License-Identifier: Apache-2.0
"""Rounds of repair in a run of this trainer: the shared distiller, wired to a scene and its renderer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from rich.progress import track
from torch import Tensor

from gsplat_trainer.config import Config
from harmonizer_ns.captures.capture import Scene
from gsplat_trainer.distributed import World, run_round
from harmonizer_ns.captures.frame import read_dataparser_transforms
from harmonizer_ns.distill.build import build_distiller, photo_only_odds, round_steps
from harmonizer_ns.distill.choice import choose_targets
from harmonizer_ns.distill.distiller import Distiller, Progress
from harmonizer_ns.references import ReferenceSelector
from harmonizer_ns.distill.report import RoundReport
from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.enhancers.identity import IdentityEnhancer
from harmonizer_ns.enhancers.parking import ParkedEnhancer
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.enhancers.stream import HISTORY, EnhancerStream
from harmonizer_ns.errors import InputError
from harmonizer_ns.types import Cameras, Frames, PseudoView, Renderer

Say = Callable[[str], None]


class Repairs:
    """Knows when to repair, repairs, and hands out pseudo-views; also enhances single renders.

    Args:
        config: of the run, steps scaled.
        scene: without photos to learn from, its cameras still say where the splats are good.
        renderer: of the scene in training.
        world: which process this is.
        say: told what is going on.
    """

    def __init__(self, config: Config, scene: Scene, renderer: Renderer, world: World, say: Say) -> None:
        self.config, self.scene, self.renderer, self.world = config, scene, renderer, world
        self.distiller = self._build(say) if self._wanted else None

    @property
    def _wanted(self) -> bool:
        return self.config.enhancer != "none" and (self.config.fix_steps or self.config.steps_per_fix) not in (0, [])

    @cached_property
    def enhancer(self) -> ParkedEnhancer:
        """The enhancer that the settings name; only the first rank ever needs it."""
        try:
            return ParkedEnhancer(load_enhancer(self.config.enhancer))
        except ValueError as error:
            raise InputError(str(error)) from error

    @cached_property
    def references(self) -> ReferenceSelector:
        """Finds photos for a view."""
        scene = self.scene
        count = self.config.num_references if scene.train else 0
        return ReferenceSelector(lambda k: scene.photo(scene.train[k]), self._known, scene.points, count)

    @property
    def _known(self) -> list[Cameras]:
        """Where the scene has been looked at."""
        return self.scene.train_cameras or self.scene.cameras

    def _build(self, say: Say) -> Distiller:
        config, scene = self.config, self.scene
        targets, origin = choose_targets(
            config.targets,
            config.camera_path,
            config.num_targets,
            config.extrapolation,
            self._known,
            scene.points,
            scene.test_cameras,
            say,
            self._path_transform(),
        )
        say(f"{len(targets)} target views, {origin}")
        planned, steps = self._plan()
        distiller = build_distiller(
            planned,
            self._known,
            targets,
            self.renderer,
            self.references,
            self._repairer(),
            steps,
            config.novel_data_lambda,
            photo_only_odds(config.real_odds) if scene.train else 0.0,
        )
        distiller.report_images, distiller.report_size = len(targets), max(t.width + t.height for t in targets)
        return distiller

    def _repairer(self) -> Enhancer:
        """What makes training targets: loaded now, so that a wrong name is not found out hours later."""
        return self.enhancer if self.world.is_first else IdentityEnhancer()

    def _path_transform(self) -> Callable[[Tensor], Tensor] | None:
        """From the frame of a camera path into the scene's."""
        file = self.config.camera_path_transform
        if file is None:
            return None
        way = read_dataparser_transforms(file, self.scene.applied).inverse()
        return (self.scene.normalization().after(way) if self.config.normalize_world_space else way).poses

    def _plan(self) -> tuple[Config, tuple[int, int]]:
        """Settings, and the first and last step at which a round may run; a list of rounds overrides the rhythm."""
        config = self.config
        first, last = round_steps(config, 0, config.max_steps - 1)
        if not config.fix_steps:
            return config, (first, last)
        first, last = min(config.fix_steps), max(last, max(config.fix_steps) + 1)
        return replace(config, steps_per_fix=-(-(last - first + 1) // len(config.fix_steps))), (first, last)

    def due(self, step: int) -> bool:
        """Whether a round should run before this step."""
        if self.distiller is None:
            return False
        return step in self.config.fix_steps if self.config.fix_steps else self.distiller.due(step)

    def run(self, step: int) -> RoundReport | None:
        """Repair; the report is the first rank's."""
        assert self.distiller is not None
        report = run_round(self.world, self.distiller, step, _progress(step) if self.world.is_first else iter)
        if report is not None:
            self.enhancer.rest()
        return report

    def draw(self, step: int) -> PseudoView | None:
        """A pseudo-view to learn from in this step, or None."""
        return None if self.distiller is None else self.distiller.draw(step)

    @torch.no_grad()
    def enhance(self, frames: Frames, stream: EnhancerStream | None = None) -> Float[Tensor, "1 3 h w"]:
        """A render (one frame) as the enhancer would show it, given photos; by itself, or as the next of a stream."""
        stream = stream or self.stream(length=0)
        return stream.enhance(frames, self.references.select(frames.cameras, self.renderer)).rgb.clamp(0, 1)

    def stream(self, length: int = HISTORY) -> EnhancerStream:
        """For frames in order."""
        return EnhancerStream(self.enhancer, length)

    def state_dict(self) -> dict[str, Any] | None:
        """The distiller's state."""
        return None if self.distiller is None else self.distiller.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Continue; a run without rounds has no state."""
        if self.distiller is not None and state is not None:
            self.distiller.load_state_dict(state)


def _progress(step: int) -> Progress:
    def wrapped(cameras: Sequence[Cameras]) -> Iterable[Cameras]:
        return track(cameras, f"Repairing views at step {step}", transient=True)

    return wrapped
