# SPDX-License-Identifier: Apache-2.0
"""Windows are neighbouring frames of one camera: which photos of a capture become clips."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import PurePosixPath

from harmonizer_ns.captures.capture import Capture

Views = tuple[int, ...]
"""Photos of one clip: their indices in the capture, in capture order."""


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
