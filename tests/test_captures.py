# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harmonizer_ns.captures.pinhole import load_capture, natural_key


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
    assert capture.filenames == ("images/a_1.png", "images/a_2.png", "images/a_10.png")
    pose = capture.photos[0].cameras.camera_to_world[0]
    assert pose[:3, 2].tolist() == [0, 0, -1]  # forward is the OpenGL camera's -z
    assert pose[:3, 1].tolist() == [0, -1, 0]  # down
    assert pose[:3, 3].tolist() == [2, 0, 0]  # the third file written


def test_a_seed_point_projects_onto_the_pixel_that_it_coloured(tmp_path):
    from harmonizer_ns.warp import project

    write_capture(tmp_path, names=("one.png",), ply_file_path="points.ply")
    write_points(tmp_path / "points.ply", [(0.2, 0.1, -2.0, 255, 0, 51)])
    capture = load_capture(tmp_path)
    pixel, z = project(capture.points[None, None], capture.photos[0].cameras)
    assert z.item() == pytest.approx(2.0)
    assert pixel.flatten().tolist() == pytest.approx([20 + 50 * 0.1, 10 - 60 * 0.05])  # y up in the world
    assert capture.colors[0].tolist() == pytest.approx([1, 0, 0.2])


def test_resizing_scales_intrinsics_and_averages_pixels(tmp_path):
    write_capture(tmp_path, names=("one.png",))
    checker = (np.indices((20, 40)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(np.stack([checker] * 3, -1)).save(tmp_path / "images/one.png")
    photo = load_capture(tmp_path, width=10).photos[0]
    assert tuple(photo.rgb.shape) == (1, 3, 5, 10)
    assert torch.allclose(photo.cameras.intrinsics[0].diagonal(), torch.tensor([12.5, 15.0, 1.0]))
    assert photo.rgb[..., 1:-1, 1:-1].sub(0.5).abs().max() < 0.05  # a sampled checkerboard would be black or white


def test_per_frame_intrinsics_win_over_shared_ones(tmp_path):
    content = write_capture(tmp_path)
    content["frames"][0]["fl_x"] = 77.0
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    focal = {n: p.cameras.intrinsics[0, 0, 0].item() for n, p in zip(*_named(load_capture(tmp_path)), strict=True)}
    assert focal == {"images/a_1.png": 50, "images/a_2.png": 77, "images/a_10.png": 50}


def _named(capture):
    return capture.filenames, capture.photos


def test_alpha_of_rgba_images_is_kept(tmp_path):
    write_capture(tmp_path, names=("one.png",))
    rgba = np.full((20, 40, 4), 255, np.uint8)
    rgba[:10, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "images/one.png")
    photo = load_capture(tmp_path).photos[0]
    assert photo.alpha[0, 0, :10].max() == 0
    assert photo.alpha[0, 0, 10:].min() == 1
    assert torch.equal(photo.rgb[0, 0], photo.alpha[0, 0])


def test_splits_follow_the_named_files(tmp_path):
    write_capture(tmp_path, train_filenames=["images/a_10.png", "images/a_1.png"], val_filenames=["images/a_2.png"])
    capture = load_capture(tmp_path)
    assert capture.train == (0, 2)
    assert capture.test == (1,)


def test_all_missing_images_are_named_at_once(tmp_path):
    write_capture(tmp_path)
    (tmp_path / "images/a_1.png").unlink()
    (tmp_path / "images/a_10.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"2 of 3 .*a_1\.png.*a_10\.png"):
        load_capture(tmp_path)


def test_truncated_and_wrongly_sized_images_are_named_at_once(tmp_path):
    write_capture(tmp_path)
    whole = (tmp_path / "images/a_1.png").read_bytes()
    (tmp_path / "images/a_1.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (8, 8)).save(tmp_path / "images/a_10.png")
    with pytest.raises(ValueError, match=r"2 of 3 .*a_1\.png.*a_10\.png.*\(8, 8\).*\(40, 20\)"):
        load_capture(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), 3.0])
def test_bad_poses_are_named(tmp_path, bad):
    content = write_capture(tmp_path)
    content["frames"][1]["transform_matrix"][0][0] = bad
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"1 of 3 poses .*a_10\.png"):
        load_capture(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k1": 0.1}, "distortion"),
        ({"camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE"),
        ({"fl_x": None}, "fl_x"),
        ({"frames": []}, "no frames"),
        ({"train_filenames": ["images/none.png"]}, r"none\.png"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, change, message):
    content = {**write_capture(tmp_path), **change}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_capture(tmp_path)


def test_a_folder_without_transforms_or_with_missing_points_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"transforms\.json"):
        load_capture(tmp_path)
    write_capture(tmp_path, ply_file_path="gone.ply")
    with pytest.raises(FileNotFoundError, match=r"gone\.ply"):
        load_capture(tmp_path)


def test_a_capture_without_points_has_none(tmp_path):
    write_capture(tmp_path)
    assert load_capture(tmp_path).points.shape == (0, 3)


def test_natural_order_counts_and_does_not_mix_types():
    assert sorted(["b", "a10", "a9", "10", "9a"], key=natural_key) == ["9a", "10", "a9", "a10", "b"]
