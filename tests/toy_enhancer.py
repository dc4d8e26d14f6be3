# SPDX-License-Identifier: Apache-2.0
"""What test doubles of enhancers have in common, and the one that trainers are tested with."""

import torch

from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.warp import backward_warp


class ToyEnhancer:
    """Looks at nothing, has nothing to move; a double adds ``enhance`` and whatever else it is about."""

    max_references = 0
    max_context = 0
    needs_geometry = False
    errors_repeat = True

    def to(self, device):
        return self


class Mixer(ToyEnhancer):
    """An enhancer that mixes the render with the nearest photo, and remembers what it was given."""

    max_references = 2

    def __init__(self):
        self.calls, self.fail_at, self.contexts, self.cameras = 0, -1, [], []

    def enhance(self, frames, context=Context()):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.contexts.append(context)
        self.cameras.append(frames.cameras)
        confidence = torch.full_like(frames.alpha, 0.9)
        if not context.references or context.references[0] is None:
            return Repaired(frames.rgb * 0.9, confidence)
        photo = context.references[0][0:1]
        warped = backward_warp(photo, frames.depth, frames.cameras)
        return Repaired(torch.lerp(frames.rgb, warped.rgb, 0.5 * warped.valid), confidence)
