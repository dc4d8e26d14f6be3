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
from harmonizer_ns.evaluation.enhancer import evaluate_scene, write_images
from harmonizer_ns.evaluation.protocol import EvaluationConfig, compare, summarize
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


def test_a_repair_from_references_counts_as_gain(wall, damaged_renderer):
    fit = SparseFit(split_capture(wall, range(0, 9, 4)), damaged_renderer)
    result = summarize("wall", list(compare(fit, WarpEnhancer(), (1, 3, 6))))
    assert result.views == 3
    assert result.psnr_render == pytest.approx(19.5, abs=0.5)  # half of the pixels off by 0.15
    assert result.psnr_enhanced > result.psnr_render + 2
    assert result.ssim_enhanced > result.ssim_render


def test_harm_to_good_pixels_is_seen(wall, perfect_renderer):
    fit = SparseFit(split_capture(wall, range(0, 9, 4)), perfect_renderer)
    result = summarize("wall", list(compare(fit, NoiseEnhancer(), (1, 3))))
    assert result.psnr_render == pytest.approx(100)
    assert result.good_after == pytest.approx(26.02, abs=0.01)  # -20 log10(0.05)


def test_every_metric_belongs_to_its_image(wall, damaged_renderer):
    fit = SparseFit(split_capture(wall, range(0, 9, 4)), damaged_renderer)
    distance = lambda image, target: (image - target).abs().mean(dim=(1, 2, 3))  # noqa: E731
    result = summarize("wall", list(compare(fit, NoiseEnhancer(), (2,))), distance)
    assert result.lpips_render == pytest.approx(0.075, abs=0.005)
    assert result.lpips_enhanced == pytest.approx(0.075, abs=0.005)
    assert result.fps > 0
    with pytest.raises(ValueError, match="no held-out"):
        summarize("wall", [])


def test_images_show_render_enhanced_and_photo(wall, damaged_renderer, tmp_path):
    fit = SparseFit(split_capture(wall, range(0, 9, 4)), damaged_renderer)
    write_images(tmp_path, list(compare(fit, WarpEnhancer(), (5,))))
    with Image.open(tmp_path / "0005.png") as image:
        assert image.size == (3 * 48, 32)


def test_a_splat_is_fitted_rendered_and_compared(wall):
    config = EvaluationConfig(scenes=(), views=3, every=3, splat=SplatConfig(steps=40, max_gaussians=400))
    result = evaluate_scene(wall, WarpEnhancer(), config)
    assert result.views == 3
    assert 10 < result.psnr_render < 60


def test_the_command_prints_a_verdict_and_writes_json(wall, tmp_path, capsys):
    folder = tmp_path / "wall"
    write_to_disk(wall, folder)
    options = ["--enhancer", "none", "--width", "None", "--steps", "10", "--views", "2", "--device", "cpu"]
    main(["evaluate", str(folder), *options, "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "wall" in printed
    assert "FAIL: +0.00 dB" in printed  # the identity gains nothing
    content = json.loads((tmp_path / "out/report.json").read_text())
    assert content["scenes"][0]["psnr_render"] == content["scenes"][0]["psnr_enhanced"]
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
