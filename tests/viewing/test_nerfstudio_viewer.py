# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's own viewer with the folder "Harmonizer", driven over viser's websocket by two clients."""

import time

import msgspec
import numpy as np
import pytest
import torch
from devtools import free_port, wait_for
from nerfstudio.utils.eval_utils import eval_setup
from runs import run, start, tiny_config
from strangers import assert_guarded
from toy_enhancer import ToyEnhancer

from harmonizer_ns.cli import view
from harmonizer_ns.enhancers.base import Repaired
from harmonizer_ns.plugin import viewer as plugin_viewer
from harmonizer_ns.plugin.models import ENHANCED
from harmonizer_ns.viewing.incoming import is_plausible


class Inverting(ToyEnhancer):
    fails = returns_nan = False

    def __init__(self):
        self.histories = []

    def enhance(self, frames, context):
        if self.fails:
            raise RuntimeError("the GPU is out of memory")
        self.histories.append(len(context.history))
        return Repaired(frames.rgb * torch.nan if self.returns_nan else 1 - frames.rgb, torch.ones_like(frames.alpha))


class Camera:
    """Of a client that looks at the capture; moves when told."""

    fov, aspect = 0.8, 4 / 3

    def __init__(self):
        self.wxyz, self.position = np.array([0.0, 1.0, 0.0, 0.0]), np.array([0.0, 0.0, 6.0])
        self.on_update = lambda callback: setattr(self, "callback", callback)

    def move(self, x):
        self.position = np.array([x, 0.0, 6.0])
        self.callback(self)


class Client:
    """What nerfstudio uses of a viser client; keeps the pictures that it is sent."""

    def __init__(self, number):
        self.client_id, self.camera, self.scene, self.pictures = number, Camera(), self, []

    def set_background_image(self, picture, **_):
        self.pictures.append(picture.astype(float))

    def atomic(self):
        return self.scene


@pytest.fixture
def viewing(capture, tmp_path, monkeypatch):
    config = tiny_config(capture, tmp_path, vis="viewer", pipeline__steps_per_fix=0)
    config.viewer.websocket_port = free_port()
    config.viewer.quit_on_train_completion = True
    trainer = start(config)
    viewer, enhancer = trainer.viewer_state, Inverting()
    monkeypatch.setattr(plugin_viewer, "load_enhancer", lambda name, device: enhancer)
    control = trainer.pipeline.viewer_control
    clients = [Client(i) for i in (101, 102)]
    monkeypatch.setattr(viewer.viser_server, "get_clients", lambda: {client.client_id: client for client in clients})
    for client in clients:
        connect(viewer, control, client)
    control.panel.enhancer.value = "none"  # loaded anew, by the patched function
    yield trainer, viewer, control, enhancer, clients
    for machine in viewer.render_statemachines.values():
        machine.running = False
    control.worker.close()
    viewer.viser_server.stop()


def connect(viewer, control, client):
    viewer.handle_new_client(client)
    control._connected(client)


def level(client, count):
    """Brightness of the picture after ``count`` others, once it is there and nothing follows soon."""
    wait_for(lambda: len(client.pictures) > count)
    last = -1
    while last != len(client.pictures):
        last = len(client.pictures)
        time.sleep(0.8)
    return client.pictures[-1].mean()


def switch_on(control, client, plain):
    """Ask for enhanced frames, and wait for the one of a client, which is the render's negative."""
    control.panel.enabled.value = True
    sent = len(client.pictures)
    control._changed()
    assert level(client, sent) == pytest.approx(255 - plain, abs=12)


def test_the_folder_enhances_for_every_client_and_survives_errors(viewing):
    trainer, viewer, control, enhancer, clients = viewing
    first, second = clients
    plain = level(first, 0)
    assert not enhancer.histories
    assert ENHANCED in viewer.control_panel._output_render.gui_handle.options
    switch_on(control, first, plain)
    assert "ms per frame" in control.panel.status

    for x in (0.02, 0.04, 0.06, 0.08, 0.1):
        done = len(enhancer.histories)
        first.camera.move(x)
        wait_for(lambda done=done: len(enhancer.histories) > done)
    level(first, len(first.pictures) - 1)
    assert max(enhancer.histories) > 0
    assert control.session._clients.keys() == {101, 102}
    mine, other = (control.session._clients[i].stream.history[0].cameras.centers for i in (101, 102))
    assert not torch.equal(mine, other)

    enhancer.fails = True
    sent = len(first.pictures)
    first.camera.move(0.0)
    assert level(first, sent) == pytest.approx(plain, abs=12)
    assert "out of memory" in control.panel.status

    enhancer.fails, enhancer.returns_nan = False, True
    sent = len(first.pictures)
    first.camera.move(0.02)
    assert level(first, sent) == pytest.approx(plain, abs=12)
    assert "plain render" in control.panel.status
    assert "NaN" in control.panel.status

    enhancer.returns_nan = False
    clients.remove(second)
    viewer.handle_disconnect(second)
    control._disconnected(second)
    trainer.train()
    sent = len(first.pictures)
    first.camera.move(0.2)
    level(first, sent)
    assert "ms per frame" in control.panel.status
    assert viewer.render_statemachines[101].is_alive()
    assert trainer.step == trainer.config.max_num_iterations - 1


def test_switched_off_while_a_frame_is_enhanced_the_plain_render_stays(viewing):
    _, _, control, _, (client, _) = viewing
    plain, follower = level(client, 0), control._clients[101]
    switch_on(control, client, plain)
    settings, outputs = control.panel.settings, follower._outputs
    enhanced = follower._enhance(follower._camera, outputs, settings)
    control.panel.enabled.value = False
    control._changed()
    sent = len(client.pictures)
    assert level(client, sent - 1) == pytest.approx(plain, abs=12)
    follower._deliver(follower._number, outputs, enhanced, settings, True)
    assert level(client, 0) == pytest.approx(plain, abs=12)
    assert control.panel.status == "off"


def test_while_the_camera_moves_a_slow_enhancer_waits_and_what_comes_late_is_dropped(viewing):
    _, _, control, enhancer, (client, _) = viewing
    plain, follower = level(client, 0), control._clients[101]
    sent = len(client.pictures)
    switch_on(control, client, plain)
    outputs, settings, before = follower._outputs, control.panel.settings, follower._number
    enhanced = follower._enhance(follower._camera, outputs, settings)
    made, follower._seconds = len(enhancer.histories), 1.0
    follower.send(outputs, static_render=False)
    assert level(client, sent) == pytest.approx(plain, abs=12)
    assert len(enhancer.histories) == made
    follower._deliver(before, outputs, enhanced, settings, True)
    assert level(client, sent) == pytest.approx(plain, abs=12)
    follower._deliver(follower._number, outputs, enhanced, settings, True)
    assert level(client, sent) == pytest.approx(255 - plain, abs=12)


def all_controls(viewer):
    return viewer.viser_server.gui._gui_input_handle_from_id.values()


def accepts(control, value):
    message = {"type": "GuiUpdateMessage", "id": control.id, "updates": {"value": value}}
    return is_plausible(msgspec.msgpack.encode(message))


@pytest.mark.parametrize("enhancer", ["builtin", "none"])
def test_strangers_get_the_public_page_and_nothing_else(capture, tmp_path, enhancer):
    config = tiny_config(capture, tmp_path, vis="viewer", pipeline__steps_per_fix=0, pipeline__enhancer=enhancer)
    config.viewer.websocket_port = free_port()
    viewer = start(config).viewer_state
    try:
        assert_guarded(viewer.viser_server.get_port())
        controls = {handle._impl.label: handle._impl for handle in all_controls(viewer)}
        assert accepts(controls["Render name"], "path 2")
        assert not accepts(controls["Render name"], "../transforms")  # it names the file that is written
        assert accepts(controls["Max res"], 512)
        assert not accepts(controls["Max res"], 10**6)
    finally:
        viewer.viser_server.stop()


def test_videos_are_enhanced_as_streams_and_evaluation_photos_by_themselves(capture, tmp_path):
    config = tiny_config(capture, tmp_path, pipeline__steps_per_fix=0, max_num_iterations=11, final_report=False)
    run(config)
    file = config.get_base_dir() / "config.yml"

    def opened(mode):
        _, pipeline, _, _ = eval_setup(file, test_mode=mode)
        pipeline.repairs.enhancer = Inverting()
        return pipeline

    pipeline = opened("inference")
    cameras = pipeline.datamanager.train_dataset.cameras
    for i in (0, 1, 2):
        outputs = pipeline.model.get_outputs_for_camera(cameras[i : i + 1])
        assert i or torch.allclose(outputs[ENHANCED], 1 - outputs["rgb"])  # later frames are steadied
        assert (outputs[ENHANCED] - 1 + outputs["rgb"]).abs().mean() < 0.1
    assert pipeline.repairs.enhancer.histories == [0, 1, 2]

    pipeline = opened("test")
    pipeline.get_average_eval_image_metrics()
    assert pipeline.repairs.enhancer.histories == [0, 0]

    scene = view.open_scene(view.ViewConfig(file), "cpu")
    frame = scene.renderer.render(scene.start)
    photos = scene.photos(scene.start)
    assert photos.rgb.shape[1:] == frame.rgb.shape[1:]
    assert (photos.depth > 0).float().mean() > 0.5
