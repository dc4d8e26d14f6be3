# SPDX-License-Identifier: Apache-2.0
"""Runs are consecutive photos of a capture with a splat fitted to them, cut into clips that show an object."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.errors import InputError, check_limits
from harmonizer_ns.splats.fit import SplatConfig, SplatReconstructor
from harmonizer_ns.splats.held_out import SparseFit, split_capture
from harmonizer_ns.splats.model import MIN_POINTS
from harmonizer_ns.splats.rendering import SplatRenderer
from harmonizer_ns.synthesis.streams.base import Clip
from harmonizer_ns.synthesis.streams.fits import RememberingRenderer, Views, cut_windows
from harmonizer_ns.synthesis.streams.masks import MaskConfig, foreground
from harmonizer_ns.synthesis.streams.solids import find_objects
from harmonizer_ns.types import Cameras, Frames, cat_cameras, cat_frames
from harmonizer_ns.warp import in_frustum

T = TypeVar("T")


@dataclass(frozen=True)
class RunSettings:
    """These settings say which photos are fitted, and how."""

    clips: int = 2
    """Clips made of one fit, at most."""
    frames: int = 5
    """Consecutive photos of a clip."""
    photos: int = 15
    """Consecutive photos that are fitted; all where a capture has fewer."""
    steps: int = 400
    """Optimisation steps of the fit."""
    gaussians: int = 12_000
    """Cap on the number of Gaussians."""

    def __post_init__(self) -> None:
        check_limits(
            self, clips=(1, math.inf), frames=(1, self.photos), steps=(1, math.inf), gaussians=(MIN_POINTS, math.inf)
        )


def draw_run(capture: Capture, settings: RunSettings, seed: int) -> Capture:
    """Draw the part of a capture that is fitted, with the seed points that at least two of its photos may see.

    Raises:
        InputError: when it has too few photos, photos of several sizes, or too few seed points.
    """
    if len(capture) < settings.frames:
        raise InputError(f"{capture.name} has {len(capture)} photos, a clip needs {settings.frames}")
    if len({(camera.width, camera.height) for camera in capture.cameras}) > 1:
        raise InputError(f"the photos of {capture.name} differ in size: frames of one clip have one size")
    start = random.Random(seed).randrange(max(1, len(capture) - settings.photos + 1))
    run = capture.part(range(len(capture))[start : start + settings.photos])
    seen = in_frustum(cat_cameras(run.cameras), run.points).sum(0) > 1
    if seen.sum() < MIN_POINTS:
        raise InputError(
            f"{run.name} has {len(run.points)} seed points, {int(seen.sum())} of them before the photos from "
            f"{run.names[0]} on; a fit needs {MIN_POINTS}: name a PLY as ply_file_path in transforms.json"
        )
    return replace(run, points=run.points[seen], colors=run.colors[seen], seen=None)


@dataclass(frozen=True)
class Run(SparseFit):
    """A run has all of its photos fitted.

    Args:
        capture, renderer: see `SparseFit`; each camera is rendered once.
        splat: what was fitted.
        settings: how.
        seed: of all that is random.
    """

    splat: SplatRenderer
    settings: RunSettings
    seed: int

    def cameras(self, views: Sequence[int]) -> Cameras:
        """Join the cameras of some photos."""
        return cat_cameras([self.capture.cameras[i] for i in views])

    def renders(self, views: Sequence[int]) -> Frames:
        """Render the splat from the cameras of some photos."""
        return self.renderer.render(self.cameras(views))

    def clip(self, views: Sequence[int]) -> Clip:
        """Join some photos into a clip."""
        photos = cat_frames([self.capture.frames(i) for i in views])
        files = tuple(self.capture.folder / self.capture.names[i] for i in views)
        return Clip(files, photos.rgb, photos.cameras)

    def object_masks(self, views: Sequence[int], config: MaskConfig, seed: int) -> Iterator[Float[Tensor, "n 1 h w"]]:
        """Find masks of an object that might be used, 0 or 1, best first; auto finds objects with the splat's depth.

        Raises:
            InputError: when given masks are missing, unreadable or empty, or drawn on distorted photos.
        """
        clip = self.clip(views)
        if config.source == "files" and self.capture.is_undistorted:
            raise InputError(
                f"masks of {self.capture.name} are drawn on its distorted photos, here they are undistorted: undistort "
                "the capture first, or take another masks.source"
            )
        if config.source == "auto":
            yield from find_objects(replace(self.renders(views), rgb=clip.frames), config.share, seed)
        else:
            yield foreground(clip, config, seed)

    def clips_with_objects(self, find: Callable[[Views, int], T | None]) -> Iterator[tuple[int, Views, int, T]]:
        """Find as many clips as are wanted that show an object.

        Args:
            find: ``(views, seed of the clip) -> object``, or None.

        Yields:
            the clip's number among those found, its views, its seed, and the object.

        Raises:
            InputError: when none of the clips has an object that lasts over its frames.
        """
        made = 0
        for number, views in enumerate(draw_clips(len(self.capture), self.settings.frames, self.seed)):
            found = find(views, self.seed + number)
            if found is not None:
                yield made, views, self.seed + number, found
                made += 1
            if made == self.settings.clips:
                return
        if not made:
            first, last = self.capture.names[0], self.capture.names[-1]
            raise InputError(
                f"no object stands out in all frames of a clip among {first} to {last} of {self.capture.name}: give "
                "masks (masks.source files, boxes or sam), a larger range of masks.share, or leave the scene out"
            )


def fit_run(capture: Capture, settings: RunSettings, seed: int) -> Run:
    """Draw a run of a capture and fit a splat to all of its photos.

    Raises:
        InputError: as `draw_run`.
    """
    run = draw_run(capture, settings, seed)
    run = split_capture(run, range(len(run)))
    photos = [run.frames(i) for i in run.train]
    splat = splat_fitter(settings, seed).fit(photos, run.points, run.colors)
    return Run(run, RememberingRenderer(splat), splat, settings, seed)


def splat_fitter(settings: RunSettings, seed: int) -> SplatReconstructor:
    """Build the fitter that the settings ask for."""
    return SplatReconstructor(SplatConfig(steps=settings.steps, max_gaussians=settings.gaussians, seed=seed))


def draw_clips(photos: int, frames: int, seed: int) -> list[Views]:
    """Draw clips of so many photos that do not overlap, in random order."""
    clips = cut_windows(range(photos), frames, random.Random(seed))
    random.Random(seed + 1).shuffle(clips)
    return clips
