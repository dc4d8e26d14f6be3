# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData

from harmonizer_ns import warp
from harmonizer_ns.errors import InputError
from harmonizer_ns.poses import flip_axes
from harmonizer_ns.synthesis.scenes import meshes, procedural
from harmonizer_ns.synthesis.scenes.cameras import Lens, look_at
from harmonizer_ns.synthesis.scenes.meshes import Mesh
from harmonizer_ns.synthesis.scenes.objects import THINGS, Material, Part, flat
from harmonizer_ns.synthesis.scenes.patterns import noise
from harmonizer_ns.synthesis.scenes.procedural import ProceduralConfig, make_scenes
from harmonizer_ns.synthesis.scenes.render import Stage, StageRenderer, develop
from harmonizer_ns.synthesis.scenes.textures import TEXTURES, photo_crop

DEMO = Path(__file__).parents[2] / "assets" / "demo"
TINY = ProceduralConfig(Path(), count=1, seed=3, frames=3, width=96, height=54, spp=4, points=600, threads=1)


def opengl_project(points, camera_to_world, meta):
    """Pixels and depth by nerfstudio's definition: x right, y up, looking along -z. Written apart from our own."""
    local = np.linalg.inv(camera_to_world) @ np.concatenate([points, np.ones((len(points), 1))], axis=1).T
    x, y, z = local[:3]
    return meta["cx"] + meta["fl_x"] * x / -z, meta["cy"] - meta["fl_y"] * y / -z, -z


def project(points, pose, lens):
    pixels, depth = warp.project(torch.from_numpy(points)[None], lens.cameras(pose[None]))
    return pixels[0].numpy(), depth[0].numpy()


def read_cloud(folder):
    vertex = PlyData.read(str(folder / "sparse_pc.ply"))["vertex"]
    positions = np.stack([vertex[k] for k in ("x", "y", "z")], axis=1).astype(float)
    colors = np.stack([vertex[k] for k in ("red", "green", "blue")], axis=1).astype(float)
    return positions, colors, json.loads((folder / "sparse_pc_tracks.json").read_text())["tracks"]


def color_errors(folder, flip=False):
    """Difference between each seed point's colour and the photos of its track; also counts points outside."""
    meta = json.loads((folder / "transforms.json").read_text())
    positions, colors, tracks = read_cloud(folder)
    errors, outside, total = [], 0, 0
    for i, frame in enumerate(meta["frames"]):
        mine = np.array([p for p, track in enumerate(tracks) if i in track], dtype=int)
        if len(mine) == 0:
            continue
        pose = np.array(frame["transform_matrix"])
        if flip:
            pose = flip_axes(torch.from_numpy(pose)).numpy()
        u, v, z = opengl_project(positions[mine], pose, meta)
        ok = (z > 0) & (u >= 0) & (v >= 0) & (u < meta["w"]) & (v < meta["h"])
        photo = np.asarray(Image.open(folder / frame["file_path"]), float)
        shown = photo[v[ok].astype(int), u[ok].astype(int)]
        errors.append(np.abs(shown - colors[mine[ok]]).mean(axis=1))
        outside, total = outside + (~ok).sum(), total + len(mine)
    return np.concatenate(errors), outside / total


def check_capture(folder):
    """What every capture of ours promises."""
    meta = json.loads((folder / "transforms.json").read_text())
    for frame in meta["frames"]:
        with Image.open(folder / frame["file_path"]) as image:
            assert image.size == (meta["w"], meta["h"])
        rotation = np.array(frame["transform_matrix"])[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation) > 0
        assert rotation[2, 1] > 0.3, "OpenGL y must point up in the world"
    positions, _, tracks = read_cloud(folder)
    assert len(positions) == len(tracks)
    assert min(len(track) for track in tracks) >= 2
    errors, outside = color_errors(folder)
    assert outside < 0.05
    assert np.median(errors) < 20
    _, flipped_outside = color_errors(folder, flip=True)
    assert flipped_outside > 0.9, "the check must notice OpenCV axes"
    return meta


@pytest.fixture(scope="module", autouse=True)
def _small_textures():
    """Photos of 96 pixels show nothing of textures of 256, whose making takes most of a scene's time."""
    make = procedural.random_texture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(procedural, "random_texture", lambda rng, size, photos: make(rng, 48, photos))
        yield


@pytest.fixture(scope="module")
def tiny_scene(tmp_path_factory):
    pytest.importorskip("mitsuba")
    config = replace(TINY, output=tmp_path_factory.mktemp("scenes"))
    return config, make_scenes(config)[0]


def test_a_scene_renders_with_consistent_cameras_points_and_photos(tiny_scene):
    config, folder = tiny_scene
    meta = check_capture(folder)
    assert len(meta["frames"]) == config.frames
    assert "train_filenames" not in meta
    photo = np.asarray(Image.open(folder / meta["frames"][0]["file_path"]), float)
    assert photo.std() > 10, "a textured scene is neither black nor flat"


def test_scenes_follow_from_the_seed(tiny_scene, tmp_path):
    config, folder = tiny_scene
    again = make_scenes(replace(config, output=tmp_path))[0]
    assert (again / "transforms.json").read_text() == (folder / "transforms.json").read_text()
    for path in sorted((folder / "images").iterdir()):
        first, second = (np.asarray(Image.open(p), int) for p in (path, again / "images" / path.name))
        assert np.abs(first - second).max() <= 1


def test_other_seeds_and_indices_give_other_scenes():
    routes = []
    for seed, index in ((0, 0), (0, 1), (1, 0)):
        rng = np.random.default_rng([seed, index])
        routes.append(procedural.arc(rng, 5).eyes)
    assert not np.allclose(routes[0], routes[1])
    assert not np.allclose(routes[0], routes[2])


def test_finished_scenes_stay_and_partial_ones_are_redone(tiny_scene, tmp_path, monkeypatch):
    _, finished = tiny_scene
    config = replace(TINY, output=tmp_path, count=2)
    (tmp_path / "scene_0000").mkdir()
    (tmp_path / "scene_0000" / "mine.txt").write_text("kept")
    (tmp_path / ".scene_0001.1.partial").mkdir()
    (tmp_path / ".scene_0001.1.partial" / "old.txt").write_text("stale")
    monkeypatch.setattr(procedural, "photograph", lambda *_: (_capture_of(finished), {"seed": 0}))
    assert [p.name for p in make_scenes(config)] == ["scene_0000", "scene_0001"]
    assert [p.name for p in (tmp_path / "scene_0000").iterdir()] == ["mine.txt"]
    assert not (tmp_path / "scene_0001" / "old.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scene_0000", "scene_0001"]


def test_an_interrupted_scene_never_gets_its_final_name(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("interrupted")

    monkeypatch.setattr(procedural, "photograph", fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        make_scenes(replace(TINY, output=tmp_path))
    assert not (tmp_path / "scene_0000").exists()


def _capture_of(folder):
    """A small capture made of the photos in a folder."""
    from harmonizer_ns.synthesis.scenes.seeds import SeedPoints
    from harmonizer_ns.synthesis.scenes.writer import RenderedCapture

    photos = [np.asarray(Image.open(p)) for p in sorted((folder / "images").iterdir())]
    poses = look_at(np.array([[i, -3.0, 1.0] for i in range(len(photos))]), np.zeros(3))
    points = SeedPoints(np.zeros((1, 3)), np.zeros((1, 3), np.uint8), [[0, 1]])
    names = [f"images/{i}.png" for i in range(len(photos))]
    return RenderedCapture(photos, poses, Lens(96, 54, 90.0), points, names)


def test_rendered_pixels_agree_with_projection():
    pytest.importorskip("mitsuba")
    lens = Lens(80, 60, 70.0)
    centers = np.array([[0.6, 0.0, 0.9], [-0.7, 0.3, 0.1]])
    reds = (np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))
    parts = [
        Part(meshes.sphere(0.1).moved(*(c - [0, 0, 0.1])), Material(flat(rgb)))
        for c, rgb in zip(centers, reds, strict=True)
    ]
    renderer = StageRenderer(Stage(parts, sky=np.ones((8, 16, 3))), lens, threads=1)
    pose = look_at(np.array([[0.4, -2.5, 0.8]]), np.array([[0.0, 0.0, 0.5]]))[0]
    photo = develop(renderer.radiance(pose, 16, 0), 1.0).astype(float)
    ys, xs = np.mgrid[:60, :80] + 0.5
    pixels, depth = project(centers, pose, lens)
    for i, channel in enumerate((0, 1)):
        mask = (photo[..., channel] > 150) & (photo[..., 1 - channel] < 80)
        found = [xs[mask].mean(), ys[mask].mean()]
        np.testing.assert_allclose(found, pixels[i], atol=0.5)
        surface = renderer.positions(pose)[int(pixels[i, 1]), int(pixels[i, 0])]
        _, z = project(surface[None], pose, lens)
        np.testing.assert_allclose(z[0], depth[i] - 0.1, atol=0.02)


def test_surface_positions_lie_inside_their_pixels():
    pytest.importorskip("mitsuba")
    lens = Lens(40, 30, 35.0)
    renderer = StageRenderer(Stage([Part(meshes.floor(3, 3), Material(flat(np.ones(3))))]), lens, threads=1)
    pose = look_at(np.array([[0.5, -3.0, 1.5]]), np.zeros((1, 3)))[0]
    surface = renderer.positions(pose)
    ys, xs = np.nonzero(np.isfinite(surface[..., 0]))
    assert 0 < len(ys) < 1200, "floor and nothing"
    pixels, _ = project(surface[ys, xs], pose, lens)
    np.testing.assert_allclose(pixels, np.stack([xs, ys], axis=1) + 0.5, atol=0.501)


@pytest.mark.parametrize("name", sorted(TEXTURES))
def test_textures_are_colourful_squares_in_range_and_repeatable(name):
    first, second, other = (TEXTURES[name](np.random.default_rng(s), 64) for s in (1, 1, 2))
    assert first.shape == (64, 64, 3)
    assert first.min() >= 0
    assert first.max() <= 1
    assert first.std() > 0.005
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_noise_has_unit_variance_and_the_asked_slope():
    field = noise(np.random.default_rng(0), 256, beta=2.0)
    assert abs(field.mean()) < 1e-3
    assert abs(field.std() - 1) < 1e-3
    power = np.abs(np.fft.fft2(field)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256))) * 256
    low, high = (power[(frequency >= f) & (frequency < 1.1 * f)].mean() for f in (10, 80))
    assert low / high == pytest.approx(64, rel=0.4)


def test_photo_crops_come_from_the_photo(tmp_path):
    Image.fromarray(np.full((40, 60, 3), (10, 200, 30), np.uint8)).save(tmp_path / "a.png")
    crop = photo_crop(np.random.default_rng(0), tmp_path / "a.png", 16)
    np.testing.assert_allclose(crop, np.broadcast_to(np.array([10, 200, 30]) / 255, (16, 16, 3)), atol=1e-6)


def signed_volume(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return float(np.einsum("fi,fi->f", a, np.cross(b, c)).sum() / 6)


@pytest.mark.parametrize(
    ("mesh", "volume"),
    [
        (meshes.box(1.0, 2.0, 3.0), 6.0),
        (meshes.sphere(0.5), np.pi / 6),
        (meshes.cylinder(0.5, 2.0), np.pi / 2),
        (meshes.torus(1.0, 0.2), 2 * np.pi**2 * 0.04),
    ],
)
def test_solids_are_closed_and_face_outwards(mesh, volume):
    assert signed_volume(mesh) == pytest.approx(volume, rel=0.03)
    assert mesh.vertices[:, 2].min() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", sorted(THINGS))
def test_things_stand_on_the_ground_and_are_about_a_metre(name):
    thing = THINGS[name](np.random.default_rng(0), lambda: flat(np.ones(3)))
    vertices = np.concatenate([p.mesh.vertices for p in thing])
    assert np.isfinite(vertices).all()
    assert -0.15 < vertices[:, 2].min() < 0.05
    assert 0.05 < np.ptp(vertices, axis=0).max() < 2.5
    for part in thing:
        assert part.mesh.faces.max() < len(part.mesh.vertices) == len(part.mesh.uv)


@pytest.mark.parametrize("route", procedural.ROUTES)
def test_routes_are_smooth(route):
    for seed in range(5):
        path = route(np.random.default_rng(seed), 36)
        steps = np.linalg.norm(np.diff(path.eyes, axis=0), axis=1)
        assert steps.max() < 0.9
        assert path.eyes[:, 2].min() > 0.1


def test_bad_requests_are_refused(tmp_path):
    for name, value in (("count", 0), ("frames", 1), ("spp", 0)):
        with pytest.raises(InputError, match=rf"{name} should be at least \d, got {value}"):
            replace(TINY, **{name: value})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        make_scenes(replace(TINY, output=tmp_path, textures=tmp_path / "empty"))


def test_the_shipped_demo_is_consistent():
    meta = check_capture(DEMO)
    assert (meta["w"], meta["h"]) == (480, 270)
    assert sum(p.stat().st_size for p in DEMO.rglob("*") if p.is_file()) < 8e6
    names = {frame["file_path"] for frame in meta["frames"]}
    train, test = set(meta["train_filenames"]), set(meta["test_filenames"])
    assert train | test == names
    assert not train & test
    assert meta["val_filenames"] == meta["test_filenames"] == sorted(test)
    _, _, tracks = read_cloud(DEMO)
    assert 1000 <= len(tracks) <= 10000
    assert max(max(track) for track in tracks) < len(train), "no seed point may come from a held-out photo"


def test_the_demo_camera_path_is_in_nerfstudios_frame():
    camera_utils = pytest.importorskip("nerfstudio.cameras.camera_utils")

    meta = json.loads((DEMO / "transforms.json").read_text())
    poses = torch.tensor([frame["transform_matrix"] for frame in meta["frames"]])
    framed, _ = camera_utils.auto_orient_and_center_poses(poses, method="none", center_method="poses")
    framed[:, :3, 3] /= framed[:, :3, 3].abs().max()
    path = json.loads((DEMO / "camera_path.json").read_text())
    ends = [np.array(path["camera_path"][i]["camera_to_world"]).reshape(4, 4)[:3] for i in (0, -1)]
    held_out = [i for i, f in enumerate(meta["frames"]) if f["file_path"] in meta["test_filenames"]]
    for end, index in zip(ends, (held_out[0], held_out[-1]), strict=True):
        np.testing.assert_allclose(end, framed[index, :3], atol=1e-4)
    fov = np.degrees(2 * np.arctan(meta["h"] / 2 / meta["fl_y"]))
    assert path["camera_path"][0]["fov"] == pytest.approx(fov)
