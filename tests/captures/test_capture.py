# SPDX-License-Identifier: Apache-2.0
"""One reader for COLMAP and transforms.json, and for every lens."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from toy import arc_cameras, gaussian_scene, write_capture, write_colmap

from harmonizer_ns.captures.capture import load_capture, read_views
from harmonizer_ns.captures.frame import Similarity, gsplat_normalization, read_dataparser_transforms
from harmonizer_ns.captures.lens import undistorted
from harmonizer_ns.errors import InputError


@pytest.mark.parametrize("text", [False, True])
def test_colmap_cameras_points_and_photos_are_those_written(tmp_path, text):
    scene = load_capture(write_colmap(tmp_path / "c", text=text), test_every=5)
    expected = arc_cameras(10, 64, 48)
    poses = torch.cat([camera.camera_to_world for camera in scene.cameras])
    torch.testing.assert_close(poses, expected.camera_to_world, atol=1e-5, rtol=0)
    torch.testing.assert_close(scene.cameras[0].intrinsics, expected.intrinsics[:1])
    assert {tuple(p) for p in scene.points.tolist()} == {tuple(p) for p in gaussian_scene()["means"].tolist()}
    assert scene.photo(3).shape == (3, 48, 64)
    assert np.array_equal(scene.photo(3).permute(1, 2, 0), np.array(Image.open(tmp_path / "c/images/photo 3.png")))
    assert (scene.test, len(scene.train)) == ((0, 5), 8)
    assert scene.mask(0) is None


def test_the_same_capture_from_both_formats(tmp_path):
    colmap = load_capture(write_colmap(tmp_path / "c"), test_every=5)
    other = load_capture(write_capture(tmp_path / "n"), test_every=5)
    for ours, theirs in zip(colmap.cameras, other.cameras, strict=True):
        torch.testing.assert_close(ours.camera_to_world, theirs.camera_to_world, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.intrinsics, theirs.intrinsics)
    assert torch.equal(colmap.photo(2), other.photo(2))
    assert other.test == (2, 7)  # transforms.json says so


def test_smaller_photos_are_made_once_beside_the_photos(tmp_path):
    data = write_colmap(tmp_path / "c", names=[f"left/{i}.JPG" for i in range(4)])
    scene = load_capture(data, factor=2, spare=tmp_path / "out")
    made = sorted((data / "images_2" / "left").iterdir())
    assert len(made) == 4
    assert scene.photo(0).shape == (3, 24, 32)
    torch.testing.assert_close(scene.cameras[0].intrinsics[0, :2], arc_cameras(4, 64, 48).intrinsics[0, :2] / 2)
    times = [file.stat().st_mtime_ns for file in made]
    load_capture(data, factor=2, spare=tmp_path / "out")
    assert [file.stat().st_mtime_ns for file in made] == times
    assert not (tmp_path / "out").exists()


def test_smaller_photos_go_elsewhere_when_the_capture_cannot_be_written(tmp_path):
    data = write_colmap(tmp_path / "c", count=3)
    (data / "images_2").touch()  # in the way
    with pytest.raises(InputError, match=r"cannot write .*images_2"):
        load_capture(data, factor=2)
    scene = load_capture(data, factor=2, spare=tmp_path / "out")
    assert len(list((tmp_path / "out" / "images_2").iterdir())) == 3
    assert scene.photo(0).shape == (3, 24, 32)


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("SIMPLE_RADIAL", [76.8, 32, 24, 0.1]),
        ("OPENCV", [76.8, 76.8, 32, 24, -0.1, 0.02, 0.001, 0.002]),
        ("OPENCV_FISHEYE", [50, 50, 32, 24, 0.01, 0, 0, 0]),
        ("FOV", [60, 60, 32, 24, 0.7]),
    ],
)
def test_undistorted_pixels_come_from_where_the_lens_saw_their_ray(model, params):
    import pycolmap

    lens = pycolmap.Camera(model=model, width=64, height=48, params=params)
    pinhole = undistorted(lens, 64, 48, "a lens")
    columns, rows = np.meshgrid(np.arange(64), np.arange(48))
    gradient = np.stack([columns * 3, rows * 4, columns + rows], axis=-1).astype(np.uint8)
    image = pinhole.apply(gradient)
    assert image.shape == (pinhole.height, pinhole.width, 3)
    for x, y in ((5, 6), (pinhole.width // 2, 3), (pinhole.width - 4, pinhole.height - 5)):
        ray = np.linalg.inv(pinhole.intrinsics.double().numpy()) @ [x + 0.5, y + 0.5, 1.0]
        u, v = lens.img_from_cam(ray)
        np.testing.assert_allclose(image[y, x, :2], [3 * (u - 0.5), 4 * (v - 0.5)], atol=1.0)


def test_distortion_scales_with_the_photos(tmp_path):
    folder = write_colmap(tmp_path / "c", count=3, model="SIMPLE_RADIAL", params=[76.8, 32.0, 24.0, 0.1])
    full, half = (load_capture(folder, factor=factor) for factor in (1, 2))
    assert full.cameras[0].width / half.cameras[0].width == pytest.approx(2, rel=0.1)
    assert full.cameras[0].intrinsics[0, 0, 0] == pytest.approx(2 * half.cameras[0].intrinsics[0, 0, 0].item())
    assert tuple(full.photo(0).shape[1:]) == (full.cameras[0].height, full.cameras[0].width)


def test_masks_and_lists(tmp_path):
    data = write_colmap(tmp_path / "c", count=4)
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 32:] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "photo 1.png.png")
    (tmp_path / "train.txt").write_text("photo 1.png\nphoto 3.png\n\n")
    chosen = {"masks": tmp_path / "masks", "train_list": tmp_path / "train.txt"}
    scene = load_capture(data, **chosen)
    assert (scene.train, scene.test) == ((1, 3), ())
    assert torch.equal(scene.mask(1)[0], torch.from_numpy(mask) > 0)
    assert scene.mask(0) is None
    (tmp_path / "train.txt").write_text("nobody.png\n")
    with pytest.raises(InputError, match=r"nobody\.png"):
        load_capture(data, **chosen)


def test_similarity_round_trip_keeps_images():
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = 0.3 * torch.linalg.matrix_exp(torch.tensor([[0.0, 1, 2], [-1, 0, 0.5], [-2, -0.5, 0]]).double())
    matrix[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    way, cameras = Similarity(matrix), arc_cameras(3, 64, 48)
    points = torch.rand(5, 3)
    moved = way.poses(cameras.camera_to_world)
    local = torch.einsum(
        "nij,pj->npi", torch.linalg.inv(moved)[:, :3], torch.cat([way.points(points), torch.ones(5, 1)], 1)
    )
    before = torch.einsum("nij,pj->npi", cameras.world_to_camera[:, :3], torch.cat([points, torch.ones(5, 1)], 1))
    torch.testing.assert_close(local, before * way.scale, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(way.inverse().points(way.points(points)), points, atol=1e-5, rtol=1e-5)


def test_nerfstudio_frame_accounts_for_what_the_capture_has_undergone(tmp_path):
    applied = torch.eye(4)
    applied[:3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    whole = torch.cat([applied[:3, :3], torch.tensor([[0.1], [0.2], [0.3]])], 1)
    (tmp_path / "t.json").write_text(json.dumps({"transform": whole.tolist(), "scale": 0.5}))
    point = torch.tensor([[1.0, 2.0, 3.0]])
    model = read_dataparser_transforms(tmp_path / "t.json", torch.eye(4)).points(point)
    from_applied = read_dataparser_transforms(tmp_path / "t.json", applied).points(point @ applied[:3, :3].T)
    torch.testing.assert_close(model, from_applied)
    torch.testing.assert_close(model, 0.5 * (point @ whole[:, :3].T + whole[:, 3]))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("t.json", {"transform": torch.eye(3, 4).tolist(), "scale": 1e308}, "not a rotation with a positive scale"),
        ("t.json", {"transform": torch.zeros(3, 4).tolist(), "scale": 1}, "not a rotation with a positive scale"),
        ("world_origin.json", {"origin": [0, float("inf"), 0]}, "origin .*inf.* not finite"),
        ("world_origin.json", {"origin": [1e300, 0, 0]}, "beyond 1e"),
    ],
)
def test_frames_beyond_any_scene_are_refused(tmp_path, file, content, message):
    (tmp_path / "t.json").write_text(json.dumps({"transform": torch.eye(3, 4).tolist(), "scale": 1}))
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_dataparser_transforms(tmp_path / "t.json", torch.eye(4))


def test_gsplat_normalization_has_unit_size_and_sorted_axes():
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 8.0, 3.0])
    way = gsplat_normalization(arc_cameras(8, 64, 48).camera_to_world, points)
    spread = way.points(points).std(dim=0)
    assert spread[0] > spread[1] > spread[2]
    torch.testing.assert_close(way.points(points).median(dim=0).values, torch.zeros(3), atol=0.02, rtol=0)


def test_errors_name_the_thing(tmp_path):
    with pytest.raises(InputError, match="nor a COLMAP reconstruction"):
        load_capture(tmp_path)
    data = write_colmap(tmp_path / "c", count=3, text=True)
    cameras = data / "sparse/0/cameras.txt"
    good = cameras.read_text()
    cameras.write_text(good.replace("PINHOLE", "NOSUCHMODEL"))
    with pytest.raises(InputError, match="Camera model does not exist"):
        load_capture(data)
    cameras.write_text(good)
    (data / "images/photo 1.png").unlink()
    with pytest.raises(InputError, match=r"1 of 3 photos cannot be used.*photo 1\.png is missing"):
        load_capture(data)
    Image.new("RGB", (64, 64)).save(data / "images/photo 1.png")
    with pytest.raises(InputError, match="64x64, the capture says 64x48"):
        load_capture(data)
    (data / "images/photo 1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"photo 1\.png is broken"):
        load_capture(data)


def test_truncated_and_panoramic_reconstructions_are_refused(tmp_path):
    import pycolmap

    data = write_colmap(tmp_path / "c", count=3)
    images = data / "sparse/0/images.bin"
    images.write_bytes(images.read_bytes()[:100])
    with pytest.raises(InputError, match=r"images\.bin is damaged"):
        load_capture(data)
    lens = pycolmap.Camera.create_from_model_name(1, "EQUIRECTANGULAR", 100.0, 64, 32)
    with pytest.raises(InputError, match="EQUIRECTANGULAR"):
        undistorted(lens, 64, 32, "panorama")


def write_distorted(folder, **lens):
    """A transforms.json whose photos came through a lens: a vertical edge at the middle, bent by it."""
    data = write_capture(folder, count=4, **lens)
    for file in (data / "images").iterdir():
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[:, 32:] = 255
        Image.fromarray(pixels).save(file)
    return data


@pytest.mark.parametrize(
    "lens",
    [{"camera_model": "OPENCV_FISHEYE", "k1": 0.05, "k2": 0.01}, {"k1": -0.1, "k2": 0.02, "p1": 0.001, "p2": 0.002}],
)
def test_photos_through_a_lens_become_pinhole_ones_once(tmp_path, lens):
    data = write_distorted(tmp_path / "c", **lens)
    whole, small = load_capture(data), load_capture(data, width=32)
    assert whole.is_undistorted
    assert read_views(data).cameras() == {}  # as they are, the photos belong to no pinhole camera
    for capture in (whole, small):
        camera = capture.cameras[1]
        assert capture.photo(1).shape == (3, camera.height, camera.width)
        assert capture.photo(1) is capture.photo(1)
        column = (camera.intrinsics[0, 0, 2] - 0.5).round().int()  # the principal point stays at the edge
        assert capture.frames(1).rgb[..., : column - 2].max() < 0.02
        assert capture.frames(1).rgb[..., column + 3 :].min() > 0.98
    assert small.cameras[0].width == 32
    scale = 32 / whole.cameras[0].width
    torch.testing.assert_close(small.cameras[0].intrinsics[0, 0], whole.cameras[0].intrinsics[0, 0] * scale)


def test_masks_of_frames_are_undistorted_and_resized_with_them(tmp_path):
    data = write_distorted(tmp_path / "c", k1=-0.1)
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(mask).save(data / "mask.png")
    meta = json.loads((data / "transforms.json").read_text())
    meta["frames"][1]["mask_path"] = "mask.png"
    (data / "transforms.json").write_text(json.dumps(meta))
    for capture in (load_capture(data), load_capture(data, width=32)):
        assert capture.mask(0) is None
        assert torch.equal(capture.mask(1)[0], capture.photo(1)[0] > 127)
    (data / "mask.png").unlink()
    with pytest.raises(InputError, match=r"mask\.png of images/001\.png does not exist"):
        load_capture(data)


def test_the_files_of_a_capture_are_all_that_is_read(tmp_path):
    colmap = read_views(write_colmap(tmp_path / "c", count=2, text=True))
    assert colmap.files == (
        *(f"sparse/0/{part}.txt" for part in ("cameras", "images", "points3D")),
        "images/photo 0.png",
        "images/photo 1.png",
    )
    assert list(colmap.cameras()) == ["images/photo 0.png", "images/photo 1.png"]
    other = read_views(write_capture(tmp_path / "n", count=2))
    assert other.files == ("transforms.json", "points.ply", "images/000.png", "images/001.png")


def test_a_part_keeps_what_belongs_to_its_photos(tmp_path):
    capture = load_capture(write_colmap(tmp_path / "c"), with_tracks=True)
    part = capture.part(range(3, 6))
    assert part.names == capture.names[3:6]
    assert torch.equal(part.photo(1), capture.photo(4))
    assert torch.equal(part.seen[2], capture.seen[5])
    assert (len(part), part.train, part.test) == (3, (), ())


def test_a_photo_in_both_lists_is_refused(capture, tmp_path):
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("000.png\n001.png\n")
    test.write_text("images/001.png\n")
    with pytest.raises(InputError, match=r"train\.txt and .*test\.txt both list images/001\.png"):
        load_capture(capture, train_list=train, test_list=test)
