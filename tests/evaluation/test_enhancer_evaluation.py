# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from toy import write_colmap
from toy_enhancer import ToyEnhancer

from harmonizer_ns.cli.main import main
from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation.enhancer import measure_scene
from harmonizer_ns.evaluation.networks import Networks
from harmonizer_ns.evaluation.rendered import FittedScene, compare
from harmonizer_ns.evaluation.report import judge
from harmonizer_ns.evaluation.sets import PictureSets
from harmonizer_ns.evaluation.settings import EvaluationConfig
from harmonizer_ns.images import load_image
from harmonizer_ns.splats.fit import SplatConfig
from harmonizer_ns.splats.held_out import SparseFit, split_capture
from harmonizer_ns.types import Frames


class WarpEnhancer(ToyEnhancer):
    """Repairs with the best reference where it is visible."""

    max_references = 1

    def enhance(self, frames: Frames, context: Context = Context()) -> Repaired:
        from harmonizer_ns.warp import backward_warp

        warped = backward_warp(context.references[0], frames.depth, frames.cameras)
        return Repaired(torch.where(warped.valid > 0.5, warped.rgb, frames.rgb), warped.valid)


class NoiseEnhancer(ToyEnhancer):
    """Spoils every pixel by 0.05."""

    def enhance(self, frames: Frames, context: Context = Context()) -> Repaired:
        assert context.references == (None,)
        return Repaired(frames.rgb - 0.05, frames.alpha)


def judged(fit, enhancer, views, folder=None):
    """What a scene scores from some of its views."""

    class Some(FittedScene):
        def views(self, enhancer):
            return compare(self.fit, enhancer, views)

    return measure_scene(Some("wall", fit), enhancer, Networks(), PictureSets(Networks()), folder)


def test_a_repair_from_references_counts_as_gain(wall, damaged_renderer):
    fit = SparseFit(split_capture(wall, range(0, 9, 4)), damaged_renderer)
    result = judged(fit, WarpEnhancer(), (1, 3, 6))
    assert result.views == 3
    assert result.score("psnr") == pytest.approx(19.5, abs=0.5)  # half of the pixels off by 0.15
    assert result.gain("psnr") > 2
    assert result.gain("ssim") > 0
    assert result.fps > 0


def test_harm_to_good_pixels_is_seen(wall, perfect_renderer):
    fit = SparseFit(split_capture(wall, range(0, 9, 4)), perfect_renderer)
    result = judged(fit, NoiseEnhancer(), (1, 3))
    assert result.score("psnr") == pytest.approx(100)
    assert result.score("good_half_psnr", "enhanced") == pytest.approx(26.02, abs=0.1)  # -20 log10(0.05)


def test_without_an_enhancer_only_the_render_is_judged(wall, damaged_renderer):
    fit = SparseFit(split_capture(wall, range(0, 9, 4)), damaged_renderer)
    result = judged(fit, None, (2,))
    assert set(result.scores) == {"plain"}
    assert (result.fps, judge([result])) == (None, None)


def test_a_scene_without_held_out_photos_is_refused(wall, damaged_renderer):
    fit = SparseFit(split_capture(wall, range(9)), damaged_renderer)
    with pytest.raises(InputError, match="wall has no held-out photos"):
        FittedScene("wall", fit).views(None)


def test_images_show_render_enhanced_and_photo(wall, damaged_renderer, tmp_path):
    fit = SparseFit(split_capture(wall, range(0, 9, 4)), damaged_renderer)
    judged(fit, WarpEnhancer(), (5,), tmp_path)
    with Image.open(tmp_path / "0005.png") as image:
        assert image.size == (3 * 48, 32)
        strip = load_image(tmp_path / "0005.png")
    for number, role in enumerate(("plain", "enhanced", "truth")):
        assert torch.equal(load_image(tmp_path / role / "0005.png"), strip[..., 48 * number : 48 * (number + 1)])


def test_a_splat_is_fitted_rendered_and_compared(wall):
    config = EvaluationConfig(scenes=(), views=3, every=3, splat=SplatConfig(steps=40, max_gaussians=400))
    scene = FittedScene("wall", config.fit(wall), 3)
    result = measure_scene(scene, WarpEnhancer(), Networks(), PictureSets(Networks()))
    assert result.views == 3
    assert 10 < result.score("psnr") < 60
    assert {name: len(found) for name, found in result.positions.items()} == {"photos": 3, "held-out": 6}


def test_the_command_prints_a_verdict_and_writes_json(wall, tmp_path, capsys):
    folder = tmp_path / "wall"
    write_to_disk(wall, folder)
    options = ["--enhancer", "none", "--width", "None", "--steps", "10", "--views", "2", "--device", "cpu"]
    main(["evaluate", str(folder), *options, "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "wall" in printed
    assert "FAIL: +0.00 dB" in printed  # the identity gains nothing
    content = json.loads((tmp_path / "out/report.json").read_text())
    (scene,) = content["scenes"]
    assert scene["psnr_render"] == scene["psnr_enhanced"] == content["average"]["psnr_render"]
    assert {"scene", "views", "ssim_render", "ssim_enhanced", "good_before", "good_after", "fps"} <= scene.keys()
    assert scene["lpips_render"] is None
    assert len(scene["each"]) == 2
    assert content["protocol"]["every"] == 4
    assert content["verdict"] == {"scenes": 1, "gain": 0.0, "good_half_change": 0.0, "passed": False}
    assert {"title", "tables"} <= content.keys()
    assert "enhancer none" in content["settings"]["networks"]
    assert "Evaluation of wall" in (tmp_path / "out/report.html").read_text()
    assert "Enhanced against plain" in (tmp_path / "out/report.md").read_text()
    assert "LPIPS-vgg not available: no vgg16" in printed
    assert len(list((tmp_path / "out/wall").glob("*.png"))) == 2


def test_colmap_captures_of_distorted_photos_are_evaluated(tmp_path):
    folder = write_colmap(tmp_path / "radial", count=5, text=True, model="SIMPLE_RADIAL", params=[76.8, 32, 24, 0.1])
    options = ["--enhancer", "none", "--width", "32", "--steps", "10", "--views", "2", "--device", "cpu"]
    main(["evaluate", str(folder), *options, "--output", str(tmp_path / "out")])
    (scene,) = json.loads((tmp_path / "out/report.json").read_text())["scenes"]
    assert (scene["scene"], scene["views"]) == ("radial", 2)
    with Image.open(next((tmp_path / "out/radial").glob("*.png"))) as strip:
        assert strip.width == 3 * 32


def write_to_disk(capture, folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    frames = []
    for i, name in enumerate(capture.names):
        Image.fromarray(capture.photo(i).permute(1, 2, 0).numpy()).save(folder / name)
        pose = capture.cameras[i].camera_to_world[0] * torch.tensor([1.0, -1, -1, 1])
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    shared = {"fl_x": 40.0, "fl_y": 40.0, "cx": 24.0, "cy": 16.0, "w": 48, "h": 32}
    (folder / "transforms.json").write_text(json.dumps({**shared, "ply_file_path": "seed.ply", "frames": frames}))
    header = f"ply\nformat ascii 1.0\nelement vertex {len(capture.points)}\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz")
    header += "".join(f"property uchar {channel}\n" for channel in ("red", "green", "blue")) + "end_header\n"
    lines = [f"{x} {y} {z} 128 128 128\n" for x, y, z in capture.points.tolist()]
    (folder / "seed.ply").write_text(header + "".join(lines))
