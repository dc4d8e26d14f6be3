# SPDX-License-Identifier: Apache-2.0
"""Settings of depth from photos; the defaults need no tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harmonizer_ns.errors import check_limits


@dataclass(frozen=True)
class StereoSettings:
    """How depth is found, and which of it is believed."""

    width: int = 480
    """Photos are matched at most this many pixels wide."""
    sources: int = 8
    """Photos that each photo is matched with."""
    witnesses: int = 8
    """Photos whose depth is compared with each photo's."""
    agreeing: int = 2
    """Witnesses that must agree with a pixel's depth; one is enough where there is no second."""
    tolerance: float = 0.015
    """Relative difference of depths at which two photos still agree."""
    reprojection: float = 1.0
    """Pixels between a pixel and itself, there and back through a witness's depth, at which both still agree."""
    correlation: float = 0.2
    """Least correlation with the sources of a pixel that tells the depth of its surroundings."""
    planes: int = 160
    """Most planes of a sweep: a pixel apart, or further where that would be more."""
    confidence: float = 0.1
    """Least confidence of a pixel that becomes a seed point."""
    matching: Literal["auto", "none", "xfeat"] = "auto"
    """Keypoints that XFeat matches in pairs of photos become seed points too, where photos stand too far apart to be
    compared: "xfeat" needs the extra matching, "auto" does so for up to five photos where it is installed."""
    seeds: float = 40.0
    """At most so many seed points times the square root of the pixels of all photos."""

    def __post_init__(self) -> None:
        check_limits(
            self,
            width=(32, math.inf),
            sources=(1, 16),
            witnesses=(1, 64),
            agreeing=(1, 16),
            tolerance=(1e-6, 1),
            reprojection=(1e-3, math.inf),
            correlation=(0, 1),
            planes=(8, 1024),
            confidence=(0, 1),
            seeds=(0, math.inf),
        )


@dataclass
class GeometrySettings:
    """What is made of the photos' geometry; every trainer offers it under the same names and with the same defaults."""

    seeds: Literal["auto", "capture", "dense"] = "auto"
    """Where splats begin: "auto" takes the capture's points and those that its photos give by comparing them,
    "capture" the former alone, "dense" the latter alone."""
    stereo: StereoSettings = StereoSettings()
    """How photos are compared."""
    depth_weight: float = 0.0
    """Weight of the loss that pulls the model's depth at each photo to the photo's own, where that is known: of
    differences in units of the scene's median disparity. It falls to a tenth during the run; 0 turns it off."""
    geometry_dir: Path | None = None
    """What the photos give is kept in the folder geometry of this one, for other runs on the same photos; None: in that
    of the results."""

    def check_geometry(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            InputError: naming the setting and its value.
        """
        check_limits(self, depth_weight=(0, math.inf))
