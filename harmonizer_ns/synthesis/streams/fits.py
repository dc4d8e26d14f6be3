# SPDX-License-Identifier: Apache-2.0
"""Fits of captures are looked at from the cameras of some photos, to become these photos.

Clips are windows: photos of one camera that follow each other in capture order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.splats.held_out import SparseFit, named_references
from harmonizer_ns.synthesis.streams.base import Made, NamedPhotos
from harmonizer_ns.types import Cameras, Frames, Renderer, cat_frames

Views = tuple[int, ...]
"""Photos of one clip: their indices in the capture, in capture order."""


class RememberingRenderer:
    """A remembering renderer renders a camera once: frames of a clip share most of their references.

    Args:
        renderer: of a finished reconstruction.
    """

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._known: dict[tuple[Any, ...], Frames] = {}

    def render(self, cameras: Cameras) -> Frames:
        """Render every camera that is new."""
        return cat_frames([self._render_one(camera) for camera in cameras])

    def _render_one(self, camera: Cameras) -> Frames:
        place = (*camera.camera_to_world.flatten().tolist(), *camera.intrinsics.flatten().tolist())
        key = (*place, camera.width, camera.height)
        if key not in self._known:
            self._known[key] = self._renderer.render(camera)
        return self._known[key]


def show_photo(
    fit: SparseFit,
    view: int,
    damaged: Frames,
    parameters: dict[str, Any],
    clip: int,
    mask: Float[Tensor, "1 h w"] | None = None,
    references: int = 3,
) -> Made:
    """Pair a damaged frame with the photo that it should become.

    Args:
        fit: of the capture; its renders tell the depth of the references.
        view: index of the photo in the capture.
        damaged: what is seen from the photo's camera (a batch of one): a render, or the photo with another light.
        parameters: all that was drawn, JSON.
        clip: number of the photo's clip.
        mask: how far each pixel was changed; None where damage is everywhere.
        references: how many photos to look at, at most; never the photo itself.
    """
    found = named_references(fit, fit.capture.cameras[view], references, exclude=view)
    return Made(
        damaged.rgb[0],
        fit.capture.frames(view).rgb[0],
        parameters,
        mask,
        geometry=damaged,
        references=None if found is None else NamedPhotos(tuple(map(_name, found[0])), found[1]),
        clip=clip,
        source=fit.capture.names[view],
    )


def _name(filename: str) -> str:
    """Name a photo by its stem, with its folder where it is one camera of a rig: their stems are often the same."""
    return str(PurePosixPath(filename).with_suffix("")).removeprefix("images/")


def camera_of(filename: str) -> str:
    """Name the camera that took a photo: its folder, such as ``images/left``."""
    return str(PurePosixPath(filename).parent)


def capacity(filenames: Sequence[str], views: Sequence[int], length: int) -> int:
    """Count the windows of ``length`` that the views give."""
    return sum(len(run) // length for run in _by_camera(filenames, views))


def choose_windows(capture: Capture, count: int, length: int, fitted: float, draw: random.Random) -> list[Views]:
    """Choose windows of views that follow each other in capture order; no two share a view.

    Args:
        capture: a window has fitted photos alone, or held-out ones alone.
        count: how many; there must be room for them.
        length: of each.
        fitted: chance of each to have fitted photos, as far as both kinds suffice.
        draw: the randomness.
    """
    unseen, seen = (
        [window for run in _by_camera(capture.names, views) for window in cut_windows(run, length, draw)]
        for views in (capture.test, capture.train)
    )
    wanted = sum(draw.random() < fitted for _ in range(count))
    wanted = min(max(wanted, count - len(unseen)), len(seen))
    return draw.sample(unseen, count - wanted) + draw.sample(seen, wanted)


def cut_windows(run: Sequence[int], length: int, draw: random.Random) -> list[Views]:
    """Cut a run of views into as many windows as there is room for, beginning anywhere."""
    first = draw.randrange(len(run) % length + 1)
    return [tuple(run[i : i + length]) for i in range(first, len(run) - length + 1, length)]


def _by_camera(filenames: Sequence[str], views: Sequence[int]) -> list[list[int]]:
    """Sort the views by camera, in capture order."""
    runs: dict[str, list[int]] = {}
    for view in views:
        runs.setdefault(camera_of(filenames[view]), []).append(view)
    return list(runs.values())
