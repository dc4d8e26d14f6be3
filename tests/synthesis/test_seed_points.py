# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData

from harmonizer_ns.synthesis.scenes.cameras import Lens
from harmonizer_ns.synthesis.scenes.seeds import triangulate
from harmonizer_ns.warp import project

DEMO = Path(__file__).parents[2] / "assets" / "demo"
pytest.importorskip("pycolmap")


@pytest.fixture(scope="module")
def three_photos():
    meta = json.loads((DEMO / "transforms.json").read_text())
    frames = sorted((f for f in meta["frames"] if "train" in f["file_path"]), key=lambda f: f["file_path"])[2:5]
    poses = np.array([f["transform_matrix"] for f in frames]) @ np.diag([1.0, -1.0, -1.0, 1.0])
    photos = [np.array(Image.open(DEMO / f["file_path"])) for f in frames]
    return photos, poses, Lens(meta["w"], meta["h"], meta["fl_x"])


def pixel_and_depth(position, pose, lens):
    pixels, depth = project(torch.from_numpy(position)[None, None], lens.cameras(pose[None]))
    return pixels[0, 0].numpy(), depth.item()


def test_points_lie_on_the_scene_and_inside_their_photos(three_photos):
    photos, poses, lens = three_photos
    points = triangulate(photos, poses, lens)
    assert len(points.positions) > 200
    vertices = PlyData.read(str(DEMO / "sparse_pc.ply"))["vertex"]
    cloud = np.stack([vertices[axis] for axis in "xyz"], axis=1)
    distance = np.linalg.norm(points.positions[:, None] - cloud[None], axis=-1).min(axis=1)
    assert np.median(distance) < 0.02  # metres; the cloud comes from all photos
    for position, track in zip(points.positions, points.tracks, strict=True):
        assert len(track) >= 2
        for index in track:
            pixel, depth = pixel_and_depth(position, poses[index], lens)
            assert depth > 0
            assert -2 < pixel[0] < lens.width + 2
            assert -2 < pixel[1] < lens.height + 2


def test_colors_are_those_of_the_photos(three_photos):
    photos, poses, lens = three_photos
    points = triangulate(photos, poses, lens)
    errors = []
    for position, color, track in zip(points.positions, points.colors, points.tracks, strict=True):
        pixel, _ = pixel_and_depth(position, poses[track[0]], lens)
        x, y = np.clip(pixel.astype(int), 0, [lens.width - 1, lens.height - 1])
        errors.append(np.abs(photos[track[0]][y, x].astype(float) - color).mean())
    assert np.median(errors) < 20


def test_photos_without_a_common_feature_are_refused(three_photos):
    _, poses, lens = three_photos
    flat = [np.full((lens.height, lens.width, 3), 128, np.uint8)] * 2
    with pytest.raises(ValueError, match="too little texture"):
        triangulate(flat, poses[:2], lens)
