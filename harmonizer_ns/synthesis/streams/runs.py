# SPDX-License-Identifier: Apache-2.0
"""Consecutive photos of a capture with a splat fitted to them, cut into clips."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.captures.pinhole import Capture
from harmonizer_ns.errors import InputError
from harmonizer_ns.splats.fit import SplatConfig, SplatReconstructor
from harmonizer_ns.splats.held_out import SparseFit, every_nth
from harmonizer_ns.splats.rendering import SplatRenderer
from harmonizer_ns.synthesis.streams.base import Clip
from harmonizer_ns.synthesis.streams.masks import MaskConfig, foreground
from harmonizer_ns.synthesis.streams.solids import find_objects
from harmonizer_ns.types import Cameras, Frames, cat_cameras, cat_frames
from harmonizer_ns.warp import in_frustum

T = TypeVar("T")


@dataclass(frozen=True)
class RunSettings:
    """Which photos are fitted, and how."""

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
        if min(self.clips, self.frames, self.steps) < 1 or self.photos < self.frames or self.gaussians < 4:
            raise ValueError(f"need clips, frames, steps >= 1, photos >= frames and gaussians >= 4, got {self}")


def draw_run(capture: Capture, settings: RunSettings, seed: int) -> Capture:
    """The part of a capture that is fitted, with the seed points that at least two of its photos may see.

    Raises:
        InputError: when it has too few photos, photos of several sizes, or too few seed points.
    """
    if len(capture) < settings.frames:
        raise InputError(f"{capture.name} has {len(capture)} photos, a clip needs {settings.frames}")
    if len({photo.rgb.shape for photo in capture.photos}) > 1:
        raise InputError(f"the photos of {capture.name} differ in size: frames of one clip have one size")
    start = random.Random(seed).randrange(max(1, len(capture) - settings.photos + 1))
    part = slice(start, start + settings.photos)
    photos = capture.photos[part]
    seen = in_frustum(cat_cameras([photo.cameras for photo in photos]), capture.points).sum(0) > 1
    if seen.sum() < 4:
        raise InputError(
            f"{capture.name} has {len(capture.points)} seed points, {int(seen.sum())} of them before the photos from "
            f"{capture.filenames[start]} on; a fit needs 4: name a PLY as ply_file_path in transforms.json"
        )
    points, colors = capture.points[seen], capture.colors[seen]
    return replace(
        capture, filenames=capture.filenames[part], photos=photos, points=points, colors=colors, train=(), test=()
    )


@dataclass(frozen=True)
class SplatFit(SparseFit):
    """A splat fitted to a run."""

    renderer: SplatRenderer


def fit_run(run: Capture, settings: RunSettings, seed: int) -> SplatFit:
    """Fit all photos of a run."""
    fitter = SplatReconstructor(splat_config(settings, seed))
    return SplatFit(run, every_nth(len(run), 1), fitter.fit(run.photos, run.points, run.colors))


def splat_config(settings: RunSettings, seed: int) -> SplatConfig:
    """How splats are fitted."""
    return SplatConfig(steps=settings.steps, max_gaussians=settings.gaussians, seed=seed)


def draw_clips(run: Capture, settings: RunSettings, seed: int) -> list[range]:
    """Clips that do not overlap, in random order: indices into the run."""
    count = len(run) // settings.frames
    offset = random.Random(seed).randrange(len(run) - count * settings.frames + 1)
    clips = [range(offset + i * settings.frames, offset + (i + 1) * settings.frames) for i in range(count)]
    random.Random(seed + 1).shuffle(clips)
    return clips


def clip_of(run: Capture, indices: range) -> Clip:
    """Photos of a run as a clip."""
    photos = cat_frames([run.photos[i] for i in indices])
    return Clip(tuple(run.folder / run.filenames[i] for i in indices), photos.rgb, photos.cameras)


def cameras_of(run: Capture, indices: range) -> Cameras:
    """Of some photos."""
    return cat_cameras([run.photos[i].cameras for i in indices])


def object_masks(
    fit: SparseFit, indices: range, renders: Frames, config: MaskConfig, seed: int
) -> Iterator[Float[Tensor, "n 1 h w"]]:
    """Masks of an object that might be used, 0 or 1, best first; auto finds objects with the fit's depth.

    Raises:
        InputError: when given masks are missing, unreadable or empty.
    """
    clip = clip_of(fit.capture, indices)
    if config.source == "auto":
        yield from find_objects(Frames(clip.frames, renders.alpha, renders.depth, renders.cameras), config.share, seed)
    else:
        yield foreground(clip, config, seed)


def clips_with_objects(
    run: Capture, settings: RunSettings, seed: int, find: Callable[[range, int], T | None]
) -> Iterator[tuple[int, range, int, T]]:
    """As many clips as are wanted in which an object is found.

    Args:
        run: the photos.
        settings: say how many.
        seed: of the order of the clips.
        find: ``(indices, seed of the clip) -> object``, or None.

    Yields:
        the clip's number among those found, its indices, its seed, and the object.

    Raises:
        InputError: when none of the clips has an object that lasts over its frames.
    """
    made = 0
    for number, indices in enumerate(draw_clips(run, settings, seed)):
        found = find(indices, seed + number)
        if found is not None:
            yield made, indices, seed + number, found
            made += 1
        if made == settings.clips:
            return
    if not made:
        raise _no_object(run)


def _no_object(run: Capture) -> InputError:
    return InputError(
        f"no object stands out in all frames of a clip among {run.filenames[0]} to {run.filenames[-1]} of {run.name}: "
        "give masks (masks.source files, boxes or sam), a larger range of masks.share, or leave the scene out"
    )
