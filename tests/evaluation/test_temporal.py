# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch
from toy import arc_cameras
from toy_enhancer import ToyEnhancer

from harmonizer_ns.captures.capture import load_capture
from harmonizer_ns.cli.main import main
from harmonizer_ns.enhancers.base import Repaired
from harmonizer_ns.evaluation.networks import Networks
from harmonizer_ns.evaluation.rendered import FittedScene
from harmonizer_ns.evaluation.settings import EvaluationConfig
from harmonizer_ns.evaluation.temporal import evaluate_scene, video_scores
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


def error(frames, video):
    return video_scores(frames, {"video": video}, Networks())["video"]["warp_error"]


def test_a_steady_video_has_no_warp_error_and_flicker_has_its_own_size():
    frames = wall()
    video = [frame.rgb for frame in frames]
    assert error(frames, video) == pytest.approx(0, abs=1e-5)
    flickering = [rgb + 0.1 * (i % 2) for i, rgb in enumerate(video)]
    assert error(frames, flickering) == pytest.approx(0.1, rel=1e-3)


class Greyer(ToyEnhancer):
    """Half way to grey: steadier and worse."""

    def enhance(self, frames, context):
        return Repaired(0.5 * frames.rgb + 0.25, torch.ones_like(frames.alpha))


def test_a_capture_is_flown_and_measured(capture, tmp_path):
    config = EvaluationConfig((capture,), width=None, every=2, views=3, between=1, splat=SplatConfig(steps=20))
    scene = FittedScene("toy", config.fit(load_capture(capture)))
    result = evaluate_scene(scene, Greyer(), config, Networks(), tmp_path)
    found = result.flat()
    assert found["frames"] == 5
    assert found["warp_enhanced"] == pytest.approx(found["warp_render"] / 2, rel=1e-3)
    assert found["warp_single"] == pytest.approx(found["warp_enhanced"])
    assert found["psnr_enhanced"] != found["psnr_render"]
    assert found["photo_to_photo_enhanced"] == pytest.approx(found["photo_to_photo_render"] / 2, rel=1e-3)
    assert 0 < found["photo_to_photo_truth"] < 1
    assert len(result.photos.positions["path"]) == 5
    assert len(list(tmp_path.glob("truth/*.png"))) == 3


def test_the_command_writes_a_report_of_its_flight(capture, tmp_path, capsys):
    options = [
        "--enhancer",
        "none",
        "--width",
        "None",
        "--every",
        "2",
        "--views",
        "2",
        "--between",
        "1",
        "--steps",
        "5",
        "--device",
        "cpu",
        "--temporal",
    ]
    main(["evaluate", str(capture), *options, "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "photo to photo" in printed
    content = json.loads((tmp_path / "temporal.json").read_text())
    assert content["scenes"][0]["warp_render"] == content["scenes"][0]["warp_enhanced"]
    assert "Flight" in (tmp_path / "report.html").read_text()
