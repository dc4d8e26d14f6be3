# SPDX-License-Identifier: Apache-2.0
"""Training with somebody watching, over viser's own websocket."""

import socket
import threading
import time

import pytest
import torch
from splat_runs import go, tiny
from toy_enhancer import ToyEnhancer

from gsplat_trainer import viewer as live
from harmonizer_ns.bench.watcher import Watcher
from harmonizer_ns.cli import view
from harmonizer_ns.enhancers.base import Repaired
from harmonizer_ns.images import to_float

PAUSED = 20


class Inverting(ToyEnhancer):
    max_references = 2
    fails = False

    def __init__(self):
        self.photos = []

    def enhance(self, frames, context):
        if self.fails:
            raise RuntimeError("out of memory")
        self.photos.append(context.references[0])
        return Repaired(1 - frames.rgb, torch.ones_like(frames.alpha))


@pytest.fixture
def watched(monkeypatch):
    """Makes every viewer start a function in another thread; training waits for it after some steps, then goes on."""
    threads = []

    def install(watch):
        opened, after_step = live.LiveViewer.__init__, live.LiveViewer.after_step

        def open_and_watch(self, *arguments):
            opened(self, *arguments)
            threads.append(threading.Thread(target=watch, args=(self,), daemon=True))
            threads[0].start()

        def pause(self, step):
            after_step(self, step)
            if step == PAUSED:
                threads[0].join(60)

        monkeypatch.setattr(live.LiveViewer, "__init__", open_and_watch)
        monkeypatch.setattr(live.LiveViewer, "after_step", pause)

    return install


def settings(colmap, folder, **changes):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return tiny(colmap, folder, enhancer="none", disable_viewer=False, port=port, **changes)


def wait(condition):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_training_goes_on_while_a_client_watches_and_the_enhancer_fails(colmap, tmp_path, monkeypatch, watched):
    enhancer, seen, others = Inverting(), {}, workers()
    monkeypatch.setattr(live, "load_enhancer", lambda name, device: enhancer)

    def watch(viewer):
        panel = viewer.server.panel
        with Watcher(viewer.server.port) as watcher:
            watcher.wait_for(1)
            panel.enabled.value = True
            viewer.server.refresh()
            wait(lambda: enhancer.photos)
            enhancer.fails = True
            watcher.look((0.1, 0.0, -4.0))
            wait(lambda: "out of memory" in panel.status)
            seen.update(status=panel.status, pictures=len(watcher.pictures), host=viewer.server.server.get_host())

    watched(watch)
    trained = go(settings(colmap, tmp_path))
    assert "out of memory" in seen["status"]
    assert trained.step == 29
    assert (seen["host"], seen["pictures"] >= 2) == ("127.0.0.1", True)
    assert len(enhancer.photos[0]) > 0
    assert workers() <= others


def workers():
    return {thread for thread in threading.enumerate() if thread.name == "harmonizer-viewer"}


def test_watching_does_not_change_what_is_learned(colmap, tmp_path, watched):
    pictures = []

    def watch(viewer):
        with Watcher(viewer.server.port) as watcher:
            for i in range(6):
                watcher.look((0.1 * i, 0.0, -4.0))
                watcher.wait_for(i + 1)
            pictures.extend(watcher.pictures)

    watched(watch)
    seen = go(settings(colmap, tmp_path / "seen"))
    unseen = go(tiny(colmap, tmp_path / "unseen", enhancer="none"))
    assert len(set(pictures)) >= 5
    assert torch.equal(seen.splats["means"], unseen.splats["means"])


def test_other_hosts_are_warned_about(colmap, tmp_path, capsys):
    go(settings(colmap, tmp_path, max_steps=1, viewer_host="0.0.0.0"))
    assert "whoever reaches this machine" in capsys.readouterr().err


def test_a_checkpoint_can_be_looked_at(colmap, tmp_path):
    trained = go(tiny(colmap, tmp_path, enhancer="none"))
    checkpoint = tmp_path / "ckpts/ckpt_29_rank0.pt"
    scene = view.open_scene(view.ViewConfig(checkpoint), "cpu")
    camera = trained.scene.cameras[3]
    torch.testing.assert_close(scene.renderer.render(camera).rgb, trained.render(camera).rgb)
    assert scene.renderer.render(scene.start.resized(64, 48)).alpha.max() > 0.5
    assert scene.photos is None
    with_photos = view.open_scene(view.ViewConfig(checkpoint, data=colmap), "cpu")
    assert with_photos.photos is not None
    nearest = with_photos.photos(camera)[0]
    torch.testing.assert_close(nearest.rgb[0], to_float(trained.scene.photo(3)))
    torch.testing.assert_close(nearest.cameras.camera_to_world[0], camera.camera_to_world[0])
