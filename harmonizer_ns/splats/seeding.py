# SPDX-License-Identifier: Apache-2.0
"""`choose_seeds` says at which points splats begin: the capture's own, those that its photos give, or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.errors import InputError
from harmonizer_ns.splats.model import MIN_POINTS
from harmonizer_ns.stereo.fusion import Seeds


def choose_seeds(
    capture: Capture, found: Seeds | None, kind: Literal["auto", "capture", "dense"], say: Callable[[str], None]
) -> Seeds:
    """Choose seed points.

    Args:
        capture: with its own points.
        found: what its photos give; None: they were not looked at, and the capture's points are all there is.
        kind: as in `GeometrySettings`.
        say: told when the photos give too little, so that the capture's points have to do.

    Raises:
        InputError: when those of the photos alone are asked for, and these are too few.
    """
    own = Seeds.of(capture)
    if found is None or kind == "capture":
        return own
    if len(found) >= MIN_POINTS:
        return found if kind == "dense" else own + found
    told = f"the photos of {capture.name} match too little, they give {len(found)} seed points"
    if kind == "dense":
        raise InputError(f"{told}, at least {MIN_POINTS} are needed; choose seeds 'auto' or 'capture'")
    say(f"{told[0].upper()}{told[1:]}; beginning with the capture's own")
    return own
