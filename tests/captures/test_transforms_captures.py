# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harmonizer_ns.captures.capture import load_capture
from harmonizer_ns.errors import InputError
from harmonizer_ns.media import natural_key


def gl_pose(x: float = 0.0) -> list[list[float]]:
    """OpenGL axes: looks along -z of the world, y up."""
    return [[1, 0, 0, x], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def write_capture(folder: Path, names: tuple[str, ...] = ("a_2.png", "a_10.png", "a_1.png"), **meta) -> dict:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 255, (20, 40, 3), dtype=np.uint8)).save(folder / "images" / name)
    frames = [{"file_path": f"images/{name}", "transform_matrix": gl_pose(i)} for i, name in enumerate(names)]
    content = {"fl_x": 50.0, "fl_y": 60.0, "cx": 20.0, "cy": 10.0, "w": 40, "h": 20, "frames": frames, **meta}
    (folder / "transforms.json").write_text(json.dumps(content))
    return content


def write_points(path: Path, points: list[tuple[float, ...]]) -> None:
    header = ["ply", "format ascii 1.0", f"element vertex {len(points)}"]
    header += [f"property float {axis}" for axis in "xyz"] + [f"property uchar {c}" for c in ("red", "green", "blue")]
    path.write_text("\n".join([*header, "end_header", *(" ".join(map(str, p)) for p in points)]) + "\n")


def test_photos_come_in_capture_order_with_opencv_axes(tmp_path):
    write_capture(tmp_path)
    capture = load_capture(tmp_path)
    assert capture.names == ("images/a_1.png", "images/a_2.png", "images/a_10.png")
    pose = capture.cameras[0].camera_to_world[0]
    assert pose[:3, 2].tolist() == [0, 0, -1]  # forward is the OpenGL camera's -z
    assert pose[:3, 1].tolist() == [0, -1, 0]  # down
    assert pose[:3, 3].tolist() == [2, 0, 0]  # the third file written


def test_a_seed_point_projects_onto_the_pixel_that_it_coloured(tmp_path):
    from harmonizer_ns.warp import project

    write_capture(tmp_path, names=("one.png",), ply_file_path="points.ply")
    write_points(tmp_path / "points.ply", [(0.2, 0.1, -2.0, 255, 0, 51)])
    capture = load_capture(tmp_path)
    pixel, z = project(capture.points[None, None], capture.cameras[0])
    assert z.item() == pytest.approx(2.0)
    assert pixel.flatten().tolist() == pytest.approx([20 + 50 * 0.1, 10 - 60 * 0.05])  # y up in the world
    assert capture.colors[0].tolist() == pytest.approx([1, 0, 0.2])


def test_resizing_scales_intrinsics_and_averages_pixels(tmp_path):
    write_capture(tmp_path, names=("one.png",))
    checker = (np.indices((20, 40)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(np.stack([checker] * 3, -1)).save(tmp_path / "images/one.png")
    photo = load_capture(tmp_path, width=10).frames(0)
    assert tuple(photo.rgb.shape) == (1, 3, 5, 10)
    assert torch.allclose(photo.cameras.intrinsics[0].diagonal(), torch.tensor([12.5, 15.0, 1.0]))
    assert photo.rgb[..., 1:-1, 1:-1].sub(0.5).abs().max() < 0.05  # a sampled checkerboard would be black or white


def test_per_frame_intrinsics_win_over_shared_ones(tmp_path):
    content = write_capture(tmp_path)
    content["frames"][0]["fl_x"] = 77.0
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    capture = load_capture(tmp_path)
    focal = {name: camera.intrinsics[0, 0, 0] for name, camera in zip(capture.names, capture.cameras, strict=True)}
    assert focal == {"images/a_1.png": 50, "images/a_2.png": 77, "images/a_10.png": 50}


def test_transparent_pixels_are_shown_on_black(tmp_path):
    write_capture(tmp_path, names=("one.png",))
    rgba = np.full((20, 40, 4), 255, np.uint8)
    rgba[:10, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "images/one.png")
    photo = load_capture(tmp_path).frames(0)
    assert photo.rgb[0, :, :10].max() == 0
    assert photo.rgb[0, :, 10:].min() == 1


def test_splits_follow_the_named_files(tmp_path):
    write_capture(tmp_path, train_filenames=["images/a_10.png", "images/a_1.png"], val_filenames=["images/a_2.png"])
    capture = load_capture(tmp_path)
    assert capture.train == (0, 2)
    assert capture.test == (1,)


def test_held_out_photos_that_are_trained_on_are_told(tmp_path, caplog):
    both = ["images/a_1.png"]
    write_capture(tmp_path, train_filenames=["images/a_10.png", *both], test_filenames=both)
    load_capture(tmp_path)
    assert "trains on 1 of its 1 held-out photos" in caplog.text


def test_missing_broken_and_wrongly_shaped_images_are_named_at_once(tmp_path):
    write_capture(tmp_path)
    whole = (tmp_path / "images/a_1.png").read_bytes()
    (tmp_path / "images/a_1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "images/a_2.png").unlink()
    Image.new("RGB", (8, 8)).save(tmp_path / "images/a_10.png")
    said = r"3 of 3 .*a_1\.png is broken.*a_2\.png is missing.*a_10\.png is 8x8, the capture says 40x20"
    with pytest.raises(InputError, match=said):
        load_capture(tmp_path)


@pytest.mark.parametrize(
    ("bad", "complaint"), [(float("nan"), "NaN"), (3.0, "not rigid"), ("one", "4x4 list of numbers")]
)
def test_a_bad_pose_is_named(tmp_path, bad, complaint):
    content = write_capture(tmp_path)
    content["frames"][1]["transform_matrix"][0][0] = bad
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"a_10\.png.*{complaint}"):
        load_capture(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fl_x": None}, "intrinsics must be numbers"),
        ({"w": None}, "intrinsics must be numbers"),
        ({"frames": []}, "no frames"),
        ({"frames": {}}, "no list of frames"),
        ({"frames": [{"file_path": "images/a_1.png"}]}, r"a_1\.png: transform_matrix"),
        ({"frames": [{"transform_matrix": gl_pose()}]}, "frame 0 has no file_path"),
        ({"train_filenames": ["images/none.png"]}, r"none\.png"),
        ({"camera_model": "LENTICULAR"}, "LENTICULAR"),
        ({"k4": 0.1}, "k4"),
        ({"applied_transform": "up"}, "applied_transform"),
        ({"ply_file_path": "gone.ply"}, r"gone\.ply, which does not exist"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, change, message):
    content = {**write_capture(tmp_path), **change}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        load_capture(tmp_path)


def test_what_is_no_capture_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a folder"):
        load_capture(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"neither transforms\.json nor a COLMAP reconstruction"):
        load_capture(tmp_path)
    (tmp_path / "transforms.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        load_capture(tmp_path)


def test_a_capture_without_points_has_none(tmp_path):
    write_capture(tmp_path)
    assert load_capture(tmp_path).points.shape == (0, 3)


def test_natural_order_counts_and_does_not_mix_types():
    assert sorted(["b", "a10", "a9", "10", "9a"], key=natural_key) == ["9a", "10", "a9", "a10", "b"]
