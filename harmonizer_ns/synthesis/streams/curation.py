# SPDX-License-Identifier: Apache-2.0
"""Artifact curation (Difix3D+, Wu et al. 2025, section 4.1): reconstructions damaged on purpose, beside real photos.

Every stream fits a capture once and renders it where photos were taken. They differ in what is fitted: every n-th
photo (sparse), for too few steps (underfit), the fit's own renders from shifted cameras (cycle), or the photos of some
cameras of a rig (cross reference). Depth, cameras and references are in the capture's frame.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import count
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.errors import InputError, check_limits
from harmonizer_ns.poses import nearest_spacing
from harmonizer_ns.progress import counted
from harmonizer_ns.splats.fit import SplatConfig, SplatReconstructor
from harmonizer_ns.splats.held_out import SparseFit, fit_sparse, split_capture
from harmonizer_ns.splats.model import MIN_POINTS
from harmonizer_ns.synthesis.streams.base import Made
from harmonizer_ns.synthesis.streams.fits import (
    RememberingRenderer,
    Views,
    camera_of,
    capacity,
    choose_windows,
    show_photo,
)
from harmonizer_ns.types import Cameras, Frames, Reconstructor

_FEWEST = 3
"""Photos that a reconstruction needs."""
_TILT = 30.0
"""Largest angle, in degrees, between a shift and the camera's horizontal: cars and people move along the ground."""


@dataclass(frozen=True)
class CurationSettings:
    """How a capture is fitted and what is shown of it; one fit gives ``clips`` times ``clip`` pairs."""

    reconstructor: Literal["splat", "nerf"] = "splat"
    """What is fitted: splat, or nerf."""
    steps: int = 1000
    """Steps of a whole fit; a NeRF takes some 400 on a CPU."""
    max_gaussians: int = 15_000
    """Cap on the Gaussians of a splat."""
    clips: int = 2
    """Clips of a fit."""
    clip: int = 5
    """Frames of a clip: neighbours in capture order among the photos of one camera that may be shown."""
    references: int = 3
    """Reference photos of a frame."""

    def __post_init__(self) -> None:
        check_limits(self, steps=(1, math.inf), max_gaussians=(MIN_POINTS, math.inf))
        check_limits(self, clips=(1, math.inf), clip=(1, math.inf), references=(0, math.inf))


@dataclass(frozen=True)
class SparseSettings(CurationSettings):
    """Fit every n-th photo."""

    every: tuple[int, int] = (2, 6)
    """Range of n; 1 fits all photos."""
    share: tuple[float, float] = (1.0, 1.0)
    """Range of the share of the steps that are done; each halving is as likely as any other."""
    near_clean: float = 0.2
    """Chance of a clip to show fitted photos, which teach an enhancer to leave good pixels alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_limits(self, every=(1, math.inf), share=(1e-6, 1), near_clean=(0, 1))


@dataclass(frozen=True)
class UnderfitSettings(SparseSettings):
    """Fit all or every other photo, and stop early."""

    every: tuple[int, int] = (1, 2)
    share: tuple[float, float] = (0.25, 0.75)
    near_clean: float = 0.5


@dataclass(frozen=True)
class CycleSettings(CurationSettings):
    """Fit, render shifted cameras, fit those renders alone, and go back to the photos' cameras."""

    shift: tuple[float, float] = (1.0, 4.0)
    """Range of the shift to one side, in units of the distance between neighbouring cameras."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_limits(self, shift=(0, math.inf))


@dataclass(frozen=True)
class CrossReferenceSettings(CurationSettings):
    """Fit some cameras of a rig, and show the others. Photos of a camera share a folder."""

    cameras: tuple[str, ...] = ()
    """Patterns of the file names that are fitted, such as ``*left*``; empty: some of the folders, drawn."""
    near_clean: float = 0.2
    """Chance of a clip to show fitted photos."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_limits(self, near_clean=(0, 1))


def build_splat(settings: CurationSettings, seed: int) -> SplatReconstructor:
    """Build the fitter of Gaussians."""
    return SplatReconstructor(SplatConfig(steps=settings.steps, seed=seed, max_gaussians=settings.max_gaussians))


Reconstructors = Mapping[str, Callable[[CurationSettings, int], Reconstructor]]
"""How captures are fitted, by the name in the settings: ``(settings, seed) -> reconstructor``."""
SPLATS: Reconstructors = {"splat": build_splat}


def make_sparse(
    capture: Capture, settings: SparseSettings, seed: int, reconstructors: Reconstructors = SPLATS
) -> Iterator[Made]:
    """Fit every n-th photo, by choice for too few steps, and show the others.

    Raises:
        InputError: when the capture is too small, or lacks what the reconstructor starts from.
    """
    draw = random.Random(seed)
    every, offset = _draw_every(capture, settings, draw)
    low, high = settings.share
    steps = max(1, round(settings.steps * low * (high / low) ** draw.random()))
    capture = split_capture(capture, range(offset, len(capture), every))
    fit = _fit(capture, replace(settings, steps=steps), seed, reconstructors)
    return _show(fit, settings, draw, {"every": every, "offset": offset, "steps": steps})


def make_cycle(
    capture: Capture, settings: CycleSettings, seed: int, reconstructors: Reconstructors = SPLATS
) -> Iterator[Made]:
    """Fit all photos, fit that fit's renders from shifted cameras, and show the photos.

    Raises:
        InputError: as `make_sparse`, and when all photos were taken in one place.
    """
    draw = random.Random(seed)
    capture = split_capture(capture, range(len(capture)))
    _check_room(capture, settings)
    offset = _draw_offset(capture, settings, draw)
    shifted = [_shifted(camera, offset) for camera in capture.cameras]
    first = _fit(capture, settings, seed, reconstructors)
    renders = [first.renderer.render(camera) for camera in counted(shifted, "shifted views")]
    second = _fit(capture, settings, seed, reconstructors, renders)
    windows = choose_windows(capture, settings.clips, settings.clip, 1.0, draw)
    parameters = {"offset": offset.tolist(), "steps": settings.steps}
    return _pairs(second, [(window, parameters) for window in windows], settings)


def make_cross_reference(
    capture: Capture, settings: CrossReferenceSettings, seed: int, reconstructors: Reconstructors = SPLATS
) -> Iterator[Made]:
    """Fit the photos of some cameras of a rig, and show those of the others.

    Raises:
        InputError: as `make_sparse`, and when there is no rig or the patterns leave nothing on one side.
    """
    draw = random.Random(seed)
    capture = _split_rig(capture, settings, draw)
    _check_room(capture, settings)
    fit = _fit(capture, settings, seed, reconstructors)
    cameras = sorted({camera_of(capture.names[i]) for i in capture.train})
    return _show(fit, settings, draw, {"cameras": list(settings.cameras) or cameras, "steps": settings.steps})


def _fit(
    capture: Capture,
    settings: CurationSettings,
    seed: int,
    reconstructors: Reconstructors,
    photos: list[Frames] | None = None,
) -> SparseFit:
    """Fit the capture's training photos, or those in their place; the renderer remembers what it has rendered."""
    name = settings.reconstructor
    if name not in reconstructors:
        raise InputError(f"the reconstructor {name} is not at hand, only {', '.join(reconstructors)}")
    if name == "splat" and len(capture.points) < MIN_POINTS:
        raise InputError(
            f"{capture.name} has {len(capture.points)} seed points, a splat starts from at least {MIN_POINTS}: "
            "name a PLY as ply_file_path in transforms.json, or set reconstructor: nerf"
        )
    fit = fit_sparse(capture, reconstructors[name](settings, seed), photos)
    return replace(fit, renderer=RememberingRenderer(fit.renderer))


def _show(
    fit: SparseFit, settings: SparseSettings | CrossReferenceSettings, draw: random.Random, parameters: dict[str, Any]
) -> Iterator[Made]:
    """Show clips of held-out photos, and some of fitted ones."""
    fitted = frozenset(fit.capture.train)
    windows = choose_windows(fit.capture, settings.clips, settings.clip, settings.near_clean, draw)
    return _pairs(fit, [(window, {**parameters, "fitted": window[0] in fitted}) for window in windows], settings)


def _pairs(fit: SparseFit, windows: list[tuple[Views, dict[str, Any]]], settings: CurationSettings) -> Iterator[Made]:
    shown = [(number, view, drawn) for number, (window, drawn) in enumerate(windows) for view in window]
    for number, view, parameters in counted(shown, "views"):
        drawn = {"reconstructor": settings.reconstructor, **parameters}
        render = fit.renderer.render(fit.capture.cameras[view])
        yield show_photo(fit, view, render, drawn, number, references=settings.references)


def _draw_every(capture: Capture, settings: SparseSettings, draw: random.Random) -> tuple[int, int]:
    """Draw n, and the first photo fitted, among those that leave enough photos on both sides."""
    possible = _possible(capture.names, settings)
    if not possible:
        needed = next(n for n in count(1) if _possible(["images/0"] * n, settings))
        raise InputError(
            f"{capture.name} has {len(capture)} photos, {settings.clips} clips of {settings.clip} with every n-th "
            f"photo fitted, n in {settings.every}, need {needed} of one camera: more photos, or smaller clips"
        )
    every = draw.choice(sorted({n for n, _ in possible}))
    return every, draw.choice([offset for n, offset in possible if n == every])


def _possible(filenames: Sequence[str], settings: SparseSettings) -> list[tuple[int, int]]:
    """List every n, and every first photo, that leave room for the clips."""
    low, high = settings.every
    return [
        (n, offset)
        for n in range(low, min(high, len(filenames)) + 1)
        for offset in range(n)
        if _has_room(filenames, range(offset, len(filenames), n), settings)
    ]


def _has_room(filenames: Sequence[str], fitted: Collection[int], settings: CurationSettings) -> bool:
    """Tell whether enough photos are fitted, and enough shown: held-out ones, or fitted ones if all are fitted."""
    shown = [i for i in range(len(filenames)) if i not in fitted] or list(fitted)
    return len(fitted) >= _FEWEST and capacity(filenames, shown, settings.clip) >= settings.clips


def _check_room(capture: Capture, settings: CurationSettings) -> None:
    if not _has_room(capture.names, capture.train, settings):
        shown = capture.test or capture.train
        raise InputError(
            f"{capture.name} has {len(capture)} photos, {len(capture.train)} to fit and {len(shown)} to show: "
            f"{settings.clips} clips of {settings.clip} need {max(_FEWEST, settings.clips * settings.clip)} of one "
            f"camera to show, and {_FEWEST} to fit; take more photos, or smaller clips"
        )


def _draw_offset(capture: Capture, settings: CycleSettings, draw: random.Random) -> Float[Tensor, " 3"]:
    """Draw a shift to the left or to the right along the camera's axes, in scene units."""
    spacing, _ = nearest_spacing(torch.cat([camera.camera_to_world for camera in capture.cameras]))
    if not spacing:
        raise InputError(f"all photos of {capture.name} were taken in one place, which gives no length of a shift")
    length, side = spacing * draw.uniform(*settings.shift), draw.choice((-1, 1))
    tilt = math.radians(draw.uniform(-_TILT, _TILT))
    return torch.tensor([side * length * math.cos(tilt), length * math.sin(tilt), 0.0])


def _shifted(cameras: Cameras, offset: Float[Tensor, " 3"]) -> Cameras:
    """Move cameras along their own axes."""
    poses = cameras.camera_to_world.clone()
    poses[:, :3, 3] += poses[:, :3, :3] @ offset.to(poses)
    return replace(cameras, camera_to_world=poses)


def _split_rig(capture: Capture, settings: CrossReferenceSettings, draw: random.Random) -> Capture:
    """Fit the photos of some cameras, and hold out those of the others."""
    names = capture.names
    if settings.cameras:
        fitted = {name for name in names if any(fnmatchcase(name, pattern) for pattern in settings.cameras)}
        if not fitted or len(fitted) == len(names):
            raise InputError(
                f"{capture.name}: the cameras {list(settings.cameras)} match {len(fitted)} of {len(names)} photos, "
                f"and should match some, not all; the first photo is {names[0]}"
            )
    else:
        cameras = sorted({camera_of(name) for name in names})
        if len(cameras) < 2:
            raise InputError(
                f"{capture.name} is from one camera, as all its photos are in {cameras[0]!r}: cross reference needs a "
                "rig with a folder for each camera, or the setting cameras with patterns such as '*left*'"
            )
        chosen = set(draw.sample(cameras, draw.randint(1, len(cameras) - 1)))
        fitted = {name for name in names if camera_of(name) in chosen}
    return split_capture(capture, [i for i, name in enumerate(names) if name in fitted])
