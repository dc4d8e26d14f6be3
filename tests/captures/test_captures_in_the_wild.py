# SPDX-License-Identifier: Apache-2.0
"""Captures as people have them: names that lead elsewhere, odd masks, deep photos, far coordinates, damaged files."""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData, PlyElement
from toy import write_capture, write_colmap

from harmonizer_ns.captures.capture import load_capture
from harmonizer_ns.captures.frame import Similarity
from harmonizer_ns.captures.posed import far_origin
from harmonizer_ns.captures.transforms import check_transforms
from harmonizer_ns.errors import InputError


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _changed(folder: Path, frames=lambda name, index: {}, **meta) -> Path:
    """Change the frames and the head of a transforms.json."""
    file = folder / "transforms.json"
    content = json.loads(file.read_text()) | meta
    content["frames"] = [frame | frames(frame["file_path"], i) for i, frame in enumerate(content["frames"])]
    for part in ("train", "val", "test"):
        content.pop(f"{part}_filenames", None)
    file.write_text(json.dumps(content))
    return folder


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["./images/{}", "images/../images/{}", "images\\{}", ".\\images\\{}"])
def test_smaller_photos_of_spelt_out_names_lie_inside_the_capture(tmp_path, form):
    data = write_capture(tmp_path / "room", count=3)
    other = write_capture(tmp_path / "room_2", count=3)  # where they once were looked for
    before, beside = _contents(data), _contents(other)
    _changed(data, lambda name, _: {"file_path": form.format(Path(name).name)})
    capture = load_capture(data, factor=2)
    assert capture.photo(0).shape == (3, 24, 32)
    assert sorted(path.name for path in (data / "images_2").iterdir()) == ["000.png", "001.png", "002.png"]
    assert _contents(other) == beside
    assert all(_contents(data)[name] == before[name] for name in before if name != "transforms.json")
    assert {path.name for path in tmp_path.iterdir()} == {"room", "room_2"}


def test_folders_of_any_name_get_smaller_photos_inside_the_capture(tmp_path):
    data = write_capture(tmp_path / "room", count=3)
    (data / "images").rename(data / "rgb")
    _changed(data, lambda name, _: {"file_path": name.replace("images", "rgb")})
    load_capture(data, factor=2)
    assert (data / "images_2/rgb/000.png").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"room"}


def test_names_that_lead_out_of_the_capture_are_refused(tmp_path):
    data = write_capture(tmp_path / "scene", count=3)
    (data / "poses").mkdir()
    for name in ("transforms.json", "points.ply"):
        shutil.move(data / name, data / "poses" / name)
    _changed(data / "poses", lambda name, _: {"file_path": f"../{name}"})
    before = _contents(tmp_path)
    with pytest.raises(InputError, match=r"names \.\./images/000\.png, which lies outside of the capture"):
        load_capture(data / "poses", factor=4)
    assert _contents(tmp_path) == before


def test_colmap_names_with_dots_never_overwrite_the_originals(tmp_path):
    data = write_colmap(tmp_path / "c", names=[f"../images/{i}.png" for i in range(3)])
    before = _contents(data)
    assert load_capture(data, factor=2).photo(0).shape == (3, 24, 32)
    after = _contents(data)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {f"images_2/{i}.png" for i in range(3)}


def test_absolute_names_are_read_and_smaller_photos_stay_inside(tmp_path):
    data = write_capture(tmp_path / "c", count=3)
    shutil.move(data / "images", tmp_path / "photos")
    _changed(data, lambda name, _: {"file_path": str(tmp_path / "photos" / Path(name).name)})
    before = _contents(tmp_path / "photos")
    assert load_capture(data, factor=2).photo(0).shape == (3, 24, 32)
    assert _contents(tmp_path / "photos") == before
    assert len(list((data / "images_2").rglob("*.png"))) == 3


def test_nothing_is_written_through_a_link(tmp_path):
    data = write_colmap(tmp_path / "c", count=3)
    (tmp_path / "elsewhere").mkdir()
    (data / "images_2").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"images_2 is a link"):
        load_capture(data, factor=2)
    load_capture(data, factor=2, spare=tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())
    assert len(list((tmp_path / "out/images_2").iterdir())) == 3


def test_photos_that_differ_in_their_suffix_stay_two(tmp_path):
    data = write_colmap(tmp_path / "c", names=["a.png", "a.jpg", "b.png"])
    full, small = load_capture(data), load_capture(data, factor=2)
    assert len({full.photo(i).numpy().tobytes() for i in range(3)}) == 3
    assert len({small.photo(i).numpy().tobytes() for i in range(3)}) == 3
    (data / "images/a.jpg").unlink()  # a.png does not stand for it
    with pytest.raises(InputError, match=r"a\.jpg is missing"):
        load_capture(data)


def test_a_smaller_photo_of_another_size_is_not_taken(tmp_path):
    data = write_colmap(tmp_path / "c", count=3)
    load_capture(data, factor=4)
    (data / "images_4").rename(data / "images_2")
    with pytest.raises(InputError, match=r"images_2.* is 16x12, which is not 2 times smaller than the photo of 64x48"):
        load_capture(data, factor=2)


def test_cropped_photos_are_told_from_resized_ones(tmp_path):
    data = write_colmap(tmp_path / "c", count=3)
    for path in (data / "images").iterdir():
        Image.open(path).crop((0, 0, 64, 46)).save(path)
    with pytest.raises(InputError, match="cropped after their calibration"):
        load_capture(data)


# --- photos and masks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("uint16", "png"), ("uint16", "tif"), ("int32", "tif"), ("float32", "tif"), ("float32 of bytes", "tif")],
)
def test_photos_of_deep_channels_are_scaled(tmp_path, kind, suffix):
    data = write_capture(tmp_path / "c", count=3)
    _changed(data, lambda name, _: {"file_path": name.replace("png", suffix)})
    grey = np.linspace(0, 255, 64 * 48).reshape(48, 64)
    scale = {"uint16": 257, "int32": (2**31 - 1) / 255, "float32": 1 / 255, "float32 of bytes": 1}[kind]
    for path in list((data / "images").iterdir()):
        path.unlink()
        Image.fromarray((grey * scale).astype(kind.split()[0])).save(path.with_suffix(f".{suffix}"))
    photo = load_capture(data).photo(0)
    assert (photo.float() - torch.from_numpy(grey).float()).abs().max() <= 1.01
    with pytest.raises(InputError, match="nerfstudio would misread"):
        check_transforms(data)


def test_transparent_pixels_do_not_count_unless_they_should_be_black(tmp_path, caplog):
    data = write_colmap(tmp_path / "c", count=3)
    for path in (data / "images").iterdir():
        pixels = np.dstack([np.array(Image.open(path)), np.full((48, 64), 255, np.uint8)])
        pixels[:, :16, 3] = 0
        Image.fromarray(pixels).save(path)
    capture = load_capture(data)
    assert "3 photos" in caplog.text
    assert "transparent pixels do not count" in caplog.text
    assert (~capture.mask(0)[0, :, :16]).all()
    assert capture.mask(0)[0, :, 16:].all()
    black = load_capture(data, alpha="black")
    assert black.mask(0) is None
    assert black.photo(0)[:, :, :16].max() == 0


def _masks(folder: Path, data: Path, name, value=255) -> Path:
    folder.mkdir()
    mask = np.full((48, 64), value, np.uint8)
    mask[:, :32] = 0
    for path in sorted((data / "images").iterdir()):
        if file := name(path):
            Image.fromarray(mask).save(folder / file)
    return folder


@pytest.mark.parametrize("value", [1, 2, 255])
@pytest.mark.parametrize("form", ["{0.name}.png", "{0.stem}.png", "{0.stem}_mask.png"])
def test_masks_of_any_name_and_value_are_read(tmp_path, form, value):
    data = write_colmap(tmp_path / "c", names=[f"{i}.jpg" for i in range(3)])
    masks = _masks(tmp_path / "masks", data, form.format, value)
    for i in range(3):
        assert load_capture(data, masks=masks).mask(i).float().mean() == 0.5


def test_masks_that_fit_nothing_are_an_error_and_missing_ones_are_counted(tmp_path, caplog):
    data = write_colmap(tmp_path / "c", names=[f"{i}.png" for i in range(4)])
    with pytest.raises(InputError, match=r"the folder of masks .*nowhere does not exist"):
        load_capture(data, masks=tmp_path / "nowhere")
    wrong = _masks(tmp_path / "wrong", data, lambda path: f"matte_{path.name}")
    with pytest.raises(InputError, match=r"looked for 0\.png\.png, 0\.png, 0_mask\.png"):
        load_capture(data, masks=wrong)
    half = _masks(tmp_path / "half", data, lambda path: path.name if int(path.stem) % 2 else None)
    capture = load_capture(data, masks=half)
    assert "2 of 4 photos have a mask" in caplog.text
    assert [capture.mask(i) is None for i in range(4)] == [True, False, True, False]


def test_masks_that_hide_nearly_everything_are_refused(tmp_path):
    data = write_colmap(tmp_path / "c", count=3)
    masks = _masks(tmp_path / "masks", data, lambda path: path.name, value=0)
    with pytest.raises(InputError, match=r"hide 100\.0% of the photos"):
        load_capture(data, masks=masks)


def test_black_of_a_jpeg_mask_hides_although_it_is_not_quite_black(tmp_path):
    data = write_colmap(tmp_path / "c", count=3, names=[f"{i}.jpg" for i in range(3)])
    (tmp_path / "masks").mkdir()
    mask = np.full((48, 64), 255, np.uint8)
    mask[:, :32] = 5
    for path in (data / "images").iterdir():
        Image.fromarray(mask).save(tmp_path / "masks" / path.name, quality=60)
    assert abs(load_capture(data, masks=tmp_path / "masks").mask(0).float().mean() - 0.5) < 0.05


# --- coordinates ------------------------------------------------------------------------------------------------------

UTM = np.array([458123.0, 5432345.0, 120.0])


def _georeferenced(folder: Path) -> Path:
    write_capture(folder)
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    poses = [np.array(frame["transform_matrix"]) for frame in frames]
    for pose in poses:
        pose[:3, 3] += UTM
    points = PlyData.read(folder / "points.ply", mmap=False)["vertex"].data
    far = points.astype([(name, "f8" if name in "xyz" else "u1") for name in points.dtype.names])
    for axis, offset in zip("xyz", UTM, strict=True):
        far[axis] += offset
    PlyData([PlyElement.describe(far, "vertex")]).write(folder / "points.ply")
    return _changed(folder, lambda _, i: {"transform_matrix": poses[i].tolist()})


def test_far_coordinates_keep_their_precision(tmp_path, caplog):
    plain, far = (
        load_capture(_changed(write_capture(tmp_path / "plain"))),
        load_capture(_georeferenced(tmp_path / "utm")),
    )
    assert "georeferenced" in caplog.text
    assert torch.equal(plain.origin, torch.zeros(3, dtype=torch.float64))
    shift = torch.from_numpy(UTM) - far.origin  # a few units at most
    assert shift.norm() < 10
    for ours, theirs in zip(far.cameras, plain.cameras, strict=True):
        moved = theirs.camera_to_world.double()
        moved[:, :3, 3] += shift
        torch.testing.assert_close(ours.camera_to_world.double(), moved, atol=1e-6, rtol=0)
    torch.testing.assert_close(far.points.double(), plain.points.double() + shift, atol=1e-6, rtol=0)
    shifted = plain.moved(Similarity.translation(shift))
    normalised = [capture.moved(capture.normalization()).points.norm(dim=1) for capture in (far, shifted)]
    torch.testing.assert_close(*normalised, atol=1e-4, rtol=0)


def test_cameras_in_one_place_are_no_far_coordinates():
    turning = torch.tensor([1.0, 2.0, 3.0]).expand(5, 3).double()
    assert not far_origin(turning, "a panorama").any()
    assert torch.equal(far_origin(turning + torch.from_numpy(UTM), "a survey"), turning[0] + torch.from_numpy(UTM))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"fl_x": -50.0}, r"transforms\.json: images/000\.png: the focal length fx=-50"),
        ({"fl_x": float("nan")}, "not finite"),
        ({"fl_x": 1e9}, r"focal length fx=1e\+09"),
        ({"fl_y": 0.5}, "focal length fy=0.5"),
        ({"cx": 1e6}, r"principal point cx=1e\+06"),
        ({"w": 0}, "64x48"),
        ({"k1": float("inf")}, "not finite"),
        ({"k1": -1e30}, "nothing is left of the photo"),
        ({"w": float("inf")}, "intrinsics must be numbers"),
        ({"ply_file_path": 5}, "ply_file_path should be the name of a file"),
        ({"applied_scale": "1"}, "applied_scale"),
    ],
)
def test_nonsense_in_transforms_is_refused_with_its_value(tmp_path, entry, message):
    data = _changed(write_capture(tmp_path / "c", count=3), **entry)
    with pytest.raises(InputError, match=message):
        load_capture(data)


@pytest.mark.parametrize("place", [float("nan"), 1e16])
def test_poses_and_points_beyond_any_scene_are_refused(tmp_path, place):
    data = write_capture(tmp_path / "c", count=3)
    cloud = PlyData.read(data / "points.ply", mmap=False)
    (data / "whole.ply").write_bytes((data / "points.ply").read_bytes())
    cloud["vertex"].data["x"][0] = place
    cloud.write(data / "points.ply")
    with pytest.raises(InputError, match=r"1 of \d+ points of .*points\.ply"):
        load_capture(data)
    (data / "whole.ply").rename(data / "points.ply")
    pose = np.eye(4)
    pose[0, 3] = place
    _changed(data, lambda _, i: {"transform_matrix": pose.tolist()} if i == 1 else {})
    with pytest.raises(InputError, match=r"images/001\.png"):
        load_capture(data)


# --- files ------------------------------------------------------------------------------------------------------------


def test_marks_of_byte_order_are_read_over(tmp_path):
    data = write_capture(tmp_path / "c", count=3)
    text = (data / "transforms.json").read_text()
    (data / "transforms.json").write_text(text, encoding="utf-8-sig")
    assert len(load_capture(data)) == 3


def test_every_eighth_photo_is_held_out_as_gsplat_orders_them(tmp_path):
    names = [f"frame_{i}.png" for i in range(1, 19)]
    capture = load_capture(write_colmap(tmp_path / "c", count=18, names=names), test_every=8)
    assert sorted(Path(capture.names[i]).name for i in capture.test) == sorted(sorted(names)[::8])


def test_the_model_with_most_photos_is_read(tmp_path, caplog):
    data = write_colmap(tmp_path / "c", count=6)
    small = write_colmap(tmp_path / "small", count=3)
    shutil.move(data / "sparse/0", data / "sparse/1")
    shutil.copytree(small / "sparse/0", data / "sparse/0")
    assert len(load_capture(data)) == 6
    assert caplog.text.count("the model with most photos") == 1


def test_photos_without_lines_of_keypoints_are_all_read(tmp_path, caplog):
    data = write_colmap(tmp_path / "c", count=6, text=True)
    file = data / "sparse/0/images.txt"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    file.write_text("".join(f"{line}\n" for line in lines[::2]))
    assert len(load_capture(data)) == 6
    assert "no lines of keypoints" in caplog.text


@pytest.mark.parametrize("part", ["images", "points3D", "frames", "rigs"])
@pytest.mark.parametrize("offset", [0, -20])
def test_damaged_counts_end_in_an_error_and_not_in_a_hang(tmp_path, part, offset):
    data = write_colmap(tmp_path / "c", count=4)
    file = data / f"sparse/0/{part}.bin"
    content = bytearray(file.read_bytes())
    if offset < 0:
        content = content[:offset]
    else:
        content[offset : offset + 8] = struct.pack("<Q", 2**60 - 1)
    file.write_bytes(content)
    with pytest.raises(InputError, match="sparse/0"):
        load_capture(data)


def test_points_that_photos_show_must_be_there(tmp_path):
    data = write_colmap(tmp_path / "c", count=4, text=True)
    file = data / "sparse/0/points3D.txt"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    file.write_text("\n".join(lines[1:]))
    with pytest.raises(InputError, match=r"points3D\.txt has no point \d+, which photo 1 shows"):
        load_capture(data, with_tracks=True)


def test_a_point_cloud_that_promises_too_much_is_refused(tmp_path):
    data = write_capture(tmp_path / "c", count=3)
    content = (data / "points.ply").read_bytes()
    (data / "points.ply").write_bytes(re.sub(rb"vertex \d+", b"vertex 100000000000", content))
    with pytest.raises(InputError, match=r"points\.ply is damaged"):
        load_capture(data)
