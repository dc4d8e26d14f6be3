# SPDX-License-Identifier: Apache-2.0
import torch

from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.identity import IdentityEnhancer


def test_it_returns_the_frames_and_believes_them(plane_frames):
    frames = plane_frames(2)
    repaired = IdentityEnhancer().enhance(frames, Context(references=(None, plane_frames(1))))
    assert torch.equal(repaired.rgb, frames.rgb)
    assert torch.equal(repaired.confidence, torch.ones_like(frames.alpha))
