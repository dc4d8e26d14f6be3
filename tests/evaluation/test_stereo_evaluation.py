# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from toy import look_at

from harmonizer_ns.captures.capture import load_capture
from harmonizer_ns.cli import evaluate
from harmonizer_ns.drawing import draw_points
from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation.stereo import covered, precision, seen_twice, true_depths
from harmonizer_ns.files import read_json
from harmonizer_ns.stereo.depth import DepthMap
from harmonizer_ns.stereo.fusion import Seeds
from harmonizer_ns.types import Cameras

SIZE = 48, 36


def facing(x=0.0):
    """A camera that looks along z, ``x`` beside the origin."""
    pose = torch.eye(4)
    pose[0, 3] = x
    intrinsics = torch.tensor([[[48.0, 0, 24], [0, 48.0, 18], [0, 0, 1]]])
    return Cameras(pose[None], intrinsics, *SIZE)


@pytest.fixture
def folder(tmp_path):
    """Four photos of a wall at depth 2, three of which know it."""
    generator = torch.Generator().manual_seed(0)
    wall = torch.randint(0, 256, (36, 80, 3), generator=generator, dtype=torch.uint8).numpy()
    wall = np.array(Image.fromarray(wall).resize((320, 144)).resize((80, 36)))
    frames = []
    for i in range(4):
        camera = facing(i / 8)  # a point at depth 2 moves by 3 pixels
        Image.fromarray(wall[:, 3 * i : 3 * i + 48]).save(tmp_path / f"{i}.png")
        pose = camera.camera_to_world[0] @ torch.diag(torch.tensor([1.0, -1, -1, 1]))
        frames.append({"file_path": f"{i}.png", "transform_matrix": pose.tolist()})
        if i < 3:
            Image.fromarray(np.full((36, 48), 2000, np.uint16)).save(tmp_path / f"{i}_depth.png")
            frames[-1]["depth_file_path"] = f"{i}_depth.png"
    meta = {"fl_x": 48, "fl_y": 48, "cx": 24, "cy": 18, "w": 48, "h": 36, "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    return tmp_path


def test_the_report_and_the_sheet_are_written(folder, tmp_path, capsys):
    output = tmp_path / "out"
    evaluate.main(evaluate.parse(["--stereo", str(folder), "--output", str(output), "--photos", "3"]))
    sheet = Image.open(output / f"{folder.name}.png")
    assert sheet.width > 6 * SIZE[0]
    assert sheet.height > 4 * SIZE[1]
    table = read_json(output / "report.json")["tables"][0]
    row = dict(zip(table["columns"], table["rows"][0], strict=True))
    assert row["photos"] == 3
    assert 0 <= row["sure %"] <= row["known %"] <= 100
    assert len(row) == 10
    assert (output / "report.html").is_file()
    assert "s a photo" in capsys.readouterr().out


def test_true_depth_is_read_in_the_size_that_is_asked_for(folder):
    capture = load_capture(folder)
    np.save(folder / "3.npy", np.full((36, 48), 2.5))
    meta = read_json(folder / "transforms.json")
    meta["frames"][3]["depth_file_path"] = "3.npy"
    (folder / "transforms.json").write_text(json.dumps(meta))
    truths = true_depths(capture, [camera.resized(24, 18) for camera in capture.cameras])
    assert [truth.shape for truth in truths] == [(18, 24)] * 4
    assert [round(truth.mean().item(), 4) for truth in truths] == [2, 2, 2, 2.5]


def test_a_depth_file_that_is_broken_is_named(folder):
    (folder / "1_depth.png").write_bytes(b"nothing")
    capture = load_capture(folder)
    with pytest.raises(InputError, match=r"1_depth\.png"):
        true_depths(capture, capture.cameras)


def test_figures_are_those_of_sure_pixels_and_of_what_two_photos_show():
    cameras = [facing(0), facing(0.5)]  # 12 pixels apart at depth 2
    truths = [torch.full((36, 48), 2.0)] * 2
    assert seen_twice(0, truths, cameras).sum() == 36 * 36
    depth, confidence = torch.full((36, 48), 2.01), torch.zeros(36, 48)
    depth[:, 24:], confidence[9:27] = 2.1, 1.0
    maps = [DepthMap(depth, confidence, camera) for camera in cameras]
    assert precision(maps, truths) == 0.5
    assert covered(maps, truths) == pytest.approx(18 * 48 / (36 * 36))
    assert covered(maps, [truths[0], None]) == 18 * 48  # nothing else is known to show it


def test_near_seeds_hide_far_ones():
    red, green = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    seeds = Seeds(
        torch.tensor([[0, 0, 4.0], [0, 0, 2.0], [0, 0, -1.0]]), torch.stack([red, green, red]), torch.zeros(3, 3)
    )
    picture = draw_points(seeds.points, seeds.colors, facing())
    assert (picture.sum(0) > 0).sum() == 4
    assert torch.equal(picture[:, 18, 24], green)
    turned = replace(facing(), camera_to_world=look_at(torch.tensor([0.0, 0, -9]), torch.tensor([0.0, 0, -20]))[None])
    assert not draw_points(seeds.points, seeds.colors, turned).any()
