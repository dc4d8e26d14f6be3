# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from toy import arc_cameras
from toy_enhancer import ToyEnhancer

from harmonizer_ns.captures.capture import load_capture
from harmonizer_ns.enhancers.base import Repaired
from harmonizer_ns.evaluation.protocol import EvaluationConfig
from harmonizer_ns.evaluation.temporal import evaluate_scene, warp_error
from harmonizer_ns.splats.fit import SplatConfig
from harmonizer_ns.types import Frames


def wall(count=3):
    """A textured plane two units ahead of a camera that slides along x by exactly four pixels."""
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(1, 3, 12, 64, generator=generator)
    frames = []
    for i in range(count):
        cameras = arc_cameras(1, 32, 12)
        pose = torch.eye(4)[None]
        pose[:, 0, 3] = i * 4 * 2 / cameras.intrinsics[0, 0, 0]
        cameras = type(cameras)(pose, cameras.intrinsics, 32, 12)
        image = torch.ones(1, 1, 12, 32)
        frames.append(Frames(texture[..., 4 * i : 4 * i + 32], image, 2 * image, cameras))
    return frames


def test_a_steady_video_has_no_warp_error_and_flicker_has_its_own_size():
    frames = wall()
    video = [frame.rgb for frame in frames]
    assert warp_error(frames, video) == pytest.approx(0, abs=1e-5)
    flickering = [rgb + 0.1 * (i % 2) for i, rgb in enumerate(video)]
    assert warp_error(frames, flickering) == pytest.approx(0.1, rel=1e-3)


def test_a_capture_is_flown_and_measured(capture):
    class Greyer(ToyEnhancer):
        """Half way to grey: steadier and worse."""

        def enhance(self, frames, context):
            return Repaired(0.5 * frames.rgb + 0.25, torch.ones_like(frames.alpha))

    config = EvaluationConfig((capture,), width=None, every=2, views=3, between=1, splat=SplatConfig(steps=20))
    result = evaluate_scene(load_capture(capture), Greyer(), config)
    assert result.frames == 5
    assert result.warp_enhanced == pytest.approx(result.warp_render / 2, rel=1e-3)
    assert result.warp_single == pytest.approx(result.warp_enhanced)
    assert result.psnr_enhanced != result.psnr_render
