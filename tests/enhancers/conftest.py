# SPDX-License-Identifier: Apache-2.0
"""Small scenes: a fronto-parallel textured plane seen by cameras side by side."""

from __future__ import annotations

import pytest
import torch

from harmonizer_ns.types import Cameras, Frames


def plane_frames(count: int = 1, height: int = 24, width: int = 40, shift: float = 0.0, seed: int = 0) -> Frames:
    """``count`` views of random content at depth 3, cameras 0.05 apart, starting at ``shift``."""
    generator = torch.Generator().manual_seed(seed)
    pose = torch.eye(4).repeat(count, 1, 1)
    pose[:, 0, 3] = torch.arange(count) * 0.05 + shift
    intrinsics = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]).repeat(count, 1, 1)
    return Frames(
        rgb=torch.rand(count, 3, height, width, generator=generator),
        alpha=torch.ones(count, 1, height, width),
        depth=torch.full((count, 1, height, width), 3.0),
        cameras=Cameras(pose, intrinsics, width, height),
    )


@pytest.fixture(name="plane_frames")
def plane_frames_fixture():
    return plane_frames
