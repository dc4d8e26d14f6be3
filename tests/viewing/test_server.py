# SPDX-License-Identifier: Apache-2.0
"""The plain viewer without a browser: cameras, two clients, photos, errors."""

import math
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from devtools import free_port, wait_for
from toy import arc_cameras
from toy_enhancer import ToyEnhancer

from harmonizer_ns.cli import view
from harmonizer_ns.enhancers.base import Repaired
from harmonizer_ns.errors import InputError
from harmonizer_ns.splats.files import write_splats
from harmonizer_ns.splats.model import seed_splats
from harmonizer_ns.types import Frames
from harmonizer_ns.viewing import session
from harmonizer_ns.viewing.gui import ViewSettings
from harmonizer_ns.viewing.server import SceneViewer, ViewedScene, client_camera, place


class Client:
    """What the viewer uses of a viser client."""

    def __init__(self, number, x=0.0):
        self.client_id, self.scene, self.pictures = number, self, []
        self.camera = SimpleNamespace(
            wxyz=np.array([1.0, 0, 0, 0]), position=np.array([x, 0, 0]), fov=1.0, aspect=2.0, on_update=self._listen
        )

    def _listen(self, callback):
        self.moved = callback

    def move(self, x):
        self.camera.position = np.array([x, 0.0, 0.0])
        self.moved(self.camera)

    def set_background_image(self, picture, **_):
        self.pictures.append(picture)


class Brightness:
    """A renderer whose pictures say where the camera is."""

    def render(self, cameras):
        image = torch.ones(1, 1, cameras.height, cameras.width)
        level = cameras.camera_to_world[0, 0, 3] / 10
        return Frames(level * image.expand(-1, 3, -1, -1), image, 2 * image, cameras)


class Lifting(ToyEnhancer):
    """Lifts every picture by a tenth per output that it remembers."""

    max_references = 1

    def enhance(self, frames, context):
        if context.references[0] is not None:
            raise RuntimeError("photo")
        return Repaired(frames.rgb + 0.1 * (1 + len(context.history)), torch.ones_like(frames.alpha))


@pytest.fixture
def viewer():
    start = arc_cameras(1, 64, 32)
    viewer = SceneViewer(
        ViewedScene(Brightness(), start), lambda name: Lifting(), port=free_port(), max_side=64,
        settings=ViewSettings(enabled=True, moving_limit=32),
    )  # fmt: skip
    yield viewer
    viewer.close()


def join(viewer, number, x=0.0):
    client = Client(number)
    viewer._connected(client)
    client.camera.wxyz, client.camera.position = np.array([1.0, 0, 0, 0]), np.array([x, 0, 0])
    wait_for(lambda: client.pictures)
    return client


def test_frames_in_motion_are_smaller_and_refined_at_rest(viewer):
    client = join(viewer, 1)
    client.pictures.clear()
    client.move(1.0)
    wait_for(lambda: len(client.pictures) == 2)
    assert [picture.shape for picture in client.pictures] == [(16, 32, 3), (32, 64, 3)]


def test_every_client_has_its_own_history_and_may_leave_any_time(viewer):
    first, second = join(viewer, 1), join(viewer, 2, x=5.0)
    for x in (0.1, 0.2):
        count = len(first.pictures)
        first.move(x)
        wait_for(lambda count=count: len(first.pictures) > count)
    second.pictures.clear()
    second.move(5.0)
    wait_for(lambda: second.pictures)
    assert second.pictures[0].mean() == pytest.approx(255 * 0.6, abs=2)
    second.move(5.1)
    viewer._disconnected(second)
    count = len(first.pictures)
    first.move(0.3)
    wait_for(lambda: len(first.pictures) > count)


def test_an_error_is_shown_and_the_plain_render_stays(viewer):
    viewer._scene = viewer._scene._replace(photos=Brightness().render)
    client = join(viewer, 1)
    client.pictures.clear()
    client.move(5.0)
    wait_for(lambda: client.pictures)
    assert client.pictures[0].mean() == pytest.approx(255 * 0.5, abs=2)
    assert "photo" in viewer.panel.status
    viewer.panel.use_photos.value = False
    client.move(5.0)
    wait_for(lambda: "ms per frame" in viewer.panel.status)


def test_a_frame_that_was_under_way_does_not_hide_that_enhancement_is_off(viewer):
    client = join(viewer, 1)
    shown = viewer._frame(client, 32)
    viewer.panel.enabled.value = False
    viewer.refresh()
    viewer._send(client, shown)
    assert viewer.panel.status == "off"


def test_the_mouse_turns_the_scene_around_a_point_at_its_own_depth(viewer):
    client = join(viewer, 1)
    start = arc_cameras(1, 64, 32)
    offset = torch.tensor(client.camera.look_at) - start.centers[0]
    torch.testing.assert_close(offset, 2 * start.camera_to_world[0, :3, 2])


def test_clients_at_rest_see_the_scene_change_but_seldom(viewer, monkeypatch):
    client = join(viewer, 1)
    time.sleep(0.5)
    monkeypatch.setattr(viewer.server, "get_clients", lambda: {1: client})
    monkeypatch.setattr(session, "REFRESH", 0.2)
    viewer._seconds, count = 0.0, len(client.pictures)
    wait_for(lambda: viewer.scene_changed() or len(client.pictures) > count, 5)
    viewer._seconds, viewer._refreshed, count = 1.0, time.monotonic(), len(client.pictures)
    for _ in range(5):
        time.sleep(0.1)
        viewer.scene_changed()
    assert len(client.pictures) == count


def test_a_client_that_is_placed_at_a_view_has_that_view():
    start = arc_cameras(3, 64, 48)[2]
    camera = SimpleNamespace(aspect=64 / 48)
    place(camera, start, 4.0)
    seen = client_camera(camera, 64)
    assert (seen.width, seen.height) == (64, 48)
    torch.testing.assert_close(seen.camera_to_world, start.camera_to_world, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.intrinsics, start.intrinsics, atol=1e-3, rtol=0)
    assert np.linalg.norm(camera.look_at) < 0.5  # the arc's centre
    assert math.isclose(np.linalg.norm(camera.up_direction), 1, rel_tol=1e-5)


def test_several_files_are_one_scene(tmp_path):
    parts = [seed_splats(torch.rand(5, 3) + i, torch.rand(5, 3), degree=0) for i in range(2)]
    files = [tmp_path / "a.ply", tmp_path / "b.ply"]
    for file, part in zip(files, parts, strict=True):
        write_splats(file, part)
    scene = view.open_scene(view.parse([*map(str, files), "--device", "cpu"]), "cpu")
    assert torch.equal(scene.renderer.splats["means"], torch.cat([part["means"] for part in parts]))


def test_bad_scenes_are_named(tmp_path):
    for name, words in (("no.ply", "no file"), ("scene.obj", "read from")):
        with pytest.raises(InputError, match=words):
            view.open_scene(view.ViewConfig(tmp_path / name), "cpu")


def test_bad_runs_of_nerfstudio_are_named(tmp_path):
    pytest.importorskip("nerfstudio")
    config = tmp_path / "config.yml"
    for given, words in (
        (view.ViewConfig(tmp_path / "no.yml"), "missing"),
        (view.ViewConfig(config, (tmp_path / "more.ply",)), "several files are for splats"),
        (view.ViewConfig(config, data=tmp_path), "--data"),
    ):
        with pytest.raises(InputError, match=words):
            view.open_scene(given, "cpu")


@pytest.mark.parametrize("broken", ["nan", "inf", "shape", "memory", "torch memory"])
@pytest.mark.parametrize("temporal", [True, False])
def test_what_an_enhancer_breaks_is_not_shown_and_the_status_says_so(viewer, broken, temporal):
    class Breaking(Lifting):
        on = True

        def enhance(self, frames, context):
            repaired = super().enhance(frames, context)
            if not self.on:
                return repaired
            if "memory" in broken:
                raise (MemoryError if broken == "memory" else torch.OutOfMemoryError)("out of memory")
            bad = repaired.rgb[..., 1:] if broken == "shape" else repaired.rgb.clone()
            bad[..., :3] = float(broken) if broken != "shape" else 0.0
            return replace(repaired, rgb=bad)

    breaking = viewer.session._enhancers["builtin"] = Breaking()
    viewer.panel.temporal.value = temporal
    client = join(viewer, 1, x=5.0)
    client.pictures.clear()
    client.move(5.0)
    wait_for(lambda: len(client.pictures) == 2)
    assert all(picture.mean() == pytest.approx(255 * 0.5, abs=2) for picture in client.pictures)
    assert viewer.panel.status.startswith("**The plain render is shown:**")
    assert {"nan": "NaN", "inf": "infinity"}.get(broken, broken.split()[-1]) in viewer.panel.status
    breaking.on = False
    client.pictures.clear()
    client.move(5.0)
    wait_for(lambda: len(client.pictures) == 2)
    assert client.pictures[0].mean() == pytest.approx(255 * 0.6, abs=2)  # nothing broken is remembered
    assert "ms per frame" in viewer.panel.status


def test_the_status_says_on_or_off_until_there_is_more_to_say(viewer):
    assert viewer.panel.status == "on"
    viewer.panel.enabled.value = False
    wait_for(lambda: viewer.panel.status == "off")
    viewer.panel.show_speed(5.0, "cpu", (64, 32))
    viewer.panel.enabled.value = True
    wait_for(lambda: viewer.panel.status == "on")
    viewer._scene = viewer._scene._replace(renderer=None)
    viewer._connected(Client(1))
    wait_for(lambda: viewer.panel.status.startswith("**No new picture:**"))
