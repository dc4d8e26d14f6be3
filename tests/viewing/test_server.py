# SPDX-License-Identifier: Apache-2.0
"""The plain viewer without a browser: cameras, two clients, photos, errors."""

import math
import threading
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
    wait_for(lambda: client.pictures)
    client.camera.wxyz = np.array([1.0, 0, 0, 0])
    client.move(x)
    wait_for(lambda: viewer._watchers[number].shown.pose == 1)
    return client


def settled(viewer, client):
    """The client's picture once it is an enhanced one at rest."""
    watcher = viewer._watchers[client.client_id]
    wait_for(lambda: watcher.shown and not watcher.shown.moving and watcher.sees_enhanced(watcher.pose))
    return client.pictures[-1]


def test_frames_in_motion_are_smaller_and_refined_at_rest(viewer):
    client = join(viewer, 1)
    settled(viewer, client)
    client.pictures.clear()
    client.move(1.0)
    settled(viewer, client)
    assert [picture.shape for picture in client.pictures] == [(16, 32, 3), (32, 64, 3)]  # a quick enhancer: in both


class Slow(ToyEnhancer):
    """Lifts every picture by a tenth, when it is let."""

    def __init__(self):
        self.let, self.seen = threading.Semaphore(0), []

    def enhance(self, frames, context):
        self.seen.append(frames.cameras.centers[0, 0].item())
        assert self.let.acquire(timeout=10)
        return Repaired(frames.rgb + 0.1, torch.ones_like(frames.alpha))


def level(client):
    return client.pictures[-1].mean() / 255


def test_a_slow_enhancer_keeps_nobody_from_moving_and_shows_nothing_from_where_they_were(viewer):
    slow = viewer.session._enhancers["builtin"] = Slow()
    client = join(viewer, 1)
    wait_for(lambda: slow.seen)  # at work for the first place
    for x in (1.0, 2.0, 5.0):
        count = len(client.pictures)
        client.move(x)
        wait_for(lambda count=count: len(client.pictures) > count)
        assert level(client) == pytest.approx(x / 10, abs=0.01)  # at once, as rendered
        assert client.pictures[-1].shape == (16, 32, 3)
    wait_for(lambda: client.pictures[-1].shape == (32, 64, 3))
    wait_for(lambda: viewer.panel.status.startswith("working on 64x32"))
    slow.let.release()  # the first place's frame, which nobody wants any more
    wait_for(lambda: len(slow.seen) == 2)
    assert level(client) == pytest.approx(0.5, abs=0.01)
    slow.let.release()
    wait_for(lambda: level(client) == pytest.approx(0.6, abs=0.01))
    assert slow.seen[1:] == [5.0]
    wait_for(lambda: "ms per frame, 64x32" in viewer.panel.status)


def test_what_is_seen_changes_without_another_frame(viewer):
    slow = viewer.session._enhancers["builtin"] = Slow()
    slow.let.release(100)
    client = join(viewer, 1, x=5.0)
    settled(viewer, client)
    made = len(slow.seen)
    viewer.panel.strength.value = 0.5
    viewer.refresh()
    assert level(client) == pytest.approx(0.55, abs=0.01)
    viewer.panel.show.value = "before | after"
    viewer.refresh()
    left, right = client.pictures[-1][:, :30] / 255, client.pictures[-1][:, 34:] / 255
    assert left.mean() == pytest.approx(0.5, abs=0.01)
    assert right.mean() == pytest.approx(0.55, abs=0.01)
    viewer.panel.split_at.value = 0.25
    viewer.refresh()
    assert client.pictures[-1][:, 20:].mean() / 255 == pytest.approx(0.55, abs=0.01)
    wait_for(lambda: viewer.panel.split_at.visible)
    viewer.panel.enabled.value = False
    viewer.refresh()
    assert level(client) == pytest.approx(0.5, abs=0.01)
    assert len(slow.seen) == made


def test_depth_and_seeds_are_views_that_no_enhancer_touches(viewer):
    client = join(viewer, 1)
    settled(viewer, client)
    seeds = torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    viewer._scene = viewer._scene._replace(seeds=seeds)
    viewer.panel.show.value = "seeds"
    viewer.refresh()
    picture = client.pictures[-1]
    assert picture[..., 1].max() == 255
    assert picture[..., 0].max() == picture[..., 2].max() == 0
    viewer.panel.show.value = "depth"
    viewer.refresh()
    assert len({tuple(pixel) for pixel in client.pictures[-1].reshape(-1, 3)}) == 1  # of one depth
    assert client.pictures[-1][0, 0, 0] > client.pictures[-1][0, 0, 2]  # near, red


def test_photos_are_offered_where_there_are_some():
    places = arc_cameras(3, 64, 48)
    scene = ViewedScene(Brightness(), places[1])
    with_photos = scene._replace(photos=lambda view: None, places=list(places), seeds=(torch.ones(4, 3),) * 2)
    for viewed, has_some in ((scene, False), (with_photos, True)):
        viewer = SceneViewer(viewed, lambda name: Lifting(), port=free_port())
        try:
            assert viewer.panel.use_photos.disabled is not has_some
            assert viewer.panel.settings.use_photos is has_some
            assert ("seeds" in viewer.panel.show.options) is has_some
            assert (viewer.cameras.photo is not None) is has_some
        finally:
            viewer.close()
    client = Client(1)
    viewer._go(client, 2)
    torch.testing.assert_close(torch.tensor(client.camera.position), places[2].centers[0])
    viewer._go(client, None)
    torch.testing.assert_close(torch.tensor(client.camera.position), places[1].centers[0])


def test_every_control_says_what_it_is_for(viewer):
    controls = [*viewer.panel._controls().values(), viewer.cameras.home]
    assert all(_hint(control) for control in controls)


def _hint(control):
    message = getattr(control._impl, "offer", None)
    return getattr(message, "hint", None)


def test_the_rate_in_motion_is_told(viewer):
    client = join(viewer, 1)
    settled(viewer, client)
    viewer.panel.enabled.value = False
    for x in range(5):
        count = len(client.pictures)
        client.move(float(x))
        wait_for(lambda count=count: len(client.pictures) > count)
    wait_for(lambda: "fps in motion, 32x16" in viewer.panel.status or viewer.panel.status == "off")
    assert viewer._watchers[1].rate() > 1
    wait_for(lambda: viewer.panel.status == "off")


def test_every_client_has_its_own_history_and_may_leave_any_time(viewer):
    first, second = join(viewer, 1), join(viewer, 2, x=5.0)
    for client in (first, second):
        settled(viewer, client)
    for x in (0.1, 0.2):
        first.move(x)
        settled(viewer, first)
    second.pictures.clear()
    second.move(5.0)
    wait_for(lambda: second.pictures)
    assert second.pictures[0].mean() == pytest.approx(255 * 0.6, abs=2)
    settled(viewer, second)
    second.move(5.1)
    viewer._disconnected(second)
    first.move(0.3)
    settled(viewer, first)


def test_an_error_is_shown_and_the_plain_render_stays(viewer):
    viewer._scene = viewer._scene._replace(photos=Brightness().render)
    viewer.panel.use_photos.value = True
    client = join(viewer, 1, x=5.0)
    client.pictures.clear()
    client.move(5.0)
    wait_for(lambda: client.pictures)
    wait_for(lambda: "photo" in viewer.panel.status)
    assert all(picture.mean() == pytest.approx(255 * 0.5, abs=2) for picture in client.pictures)
    viewer.panel.use_photos.value = False
    client.move(5.0)
    wait_for(lambda: "ms per frame" in viewer.panel.status)


def test_a_frame_that_was_under_way_does_not_hide_that_enhancement_is_off(viewer):
    client = join(viewer, 1, x=5.0)
    settled(viewer, client)
    watcher = viewer._watchers[1]
    shown = viewer._enhanced(1, viewer._frame(watcher, 32))
    assert shown.enhanced is not None
    viewer.panel.enabled.value = False
    viewer.refresh()
    viewer._send(watcher, shown)
    assert viewer.panel.status == "off"
    assert level(client) == pytest.approx(0.5, abs=0.01)


def test_the_mouse_turns_the_scene_around_a_point_at_its_own_depth(viewer):
    client = join(viewer, 1)
    start = arc_cameras(1, 64, 32)
    offset = torch.tensor(client.camera.look_at) - start.centers[0]
    torch.testing.assert_close(offset, 2 * start.camera_to_world[0, :3, 2])


def test_clients_at_rest_see_the_scene_change_but_seldom(viewer, monkeypatch):
    client = join(viewer, 1)
    settled(viewer, client)
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
    wait_for(lambda: "plain render" in viewer.panel.status)
    wait_for(lambda: client.pictures and client.pictures[-1].shape == (32, 64, 3))
    assert all(picture.mean() == pytest.approx(255 * 0.5, abs=2) for picture in client.pictures)
    assert viewer.panel.status.startswith("**The plain render is shown:**")
    assert {"nan": "NaN", "inf": "infinity"}.get(broken, broken.split()[-1]) in viewer.panel.status
    breaking.on = False
    client.pictures.clear()
    client.move(5.0)
    assert settled(viewer, client).mean() == pytest.approx(255 * 0.6, abs=2)  # nothing broken is remembered
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
