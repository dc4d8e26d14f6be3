# SPDX-License-Identifier: Apache-2.0
"""The enhancer called none."""

from __future__ import annotations

import torch

from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.types import Frames


class IdentityEnhancer:
    """The null object: returns every frame as it came, and believes it."""

    max_references = 0
    max_context = 0
    needs_geometry = False
    errors_repeat = True

    def enhance(self, frames: Frames, context: Context = Context()) -> Repaired:
        """The frames themselves (in [0, 1]), confidence 1 everywhere."""
        return Repaired(rgb=frames.rgb.clamp(0, 1), confidence=torch.ones_like(frames.alpha))

    def to(self, device: torch.device | str) -> IdentityEnhancer:
        """It has nothing to move."""
        return self
