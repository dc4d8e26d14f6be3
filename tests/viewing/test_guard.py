# SPDX-License-Identifier: Apache-2.0
"""Real servers against strangers: who gets in, and what they can do there. nerfstudio's viewer is tested apart."""

import math
import socket
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
import torch
from devtools import free_port, wait_for
from strangers import ask, assert_guarded, knock
from test_server import Brightness, Lifting
from toy import arc_cameras

from gsplat_trainer.viewer import LiveViewer
from harmonizer_ns.bench.watcher import IS_VISER_1, SHAPE, Watcher
from harmonizer_ns.cli import view
from harmonizer_ns.viewing.guard import PROXIES
from harmonizer_ns.viewing.gui import ViewSettings
from harmonizer_ns.viewing.incoming import is_plausible
from harmonizer_ns.viewing.server import SceneViewer, ViewedScene


def shown_by_harmonizer_view(monkeypatch):
    scene = ViewedScene(Brightness(), arc_cameras(1, 64, 32))
    monkeypatch.setattr(view, "open_scene", lambda config, device: scene)
    return view.serve(view.ViewConfig("scene.ply", enhance=False, port=free_port()))


def shown_by_gsplat_trainer(monkeypatch):
    config = SimpleNamespace(viewer_host="127.0.0.1", port=free_port(), enhancer="none")
    repairs = SimpleNamespace(renderer=Brightness(), photos=lambda view: None)
    scene = SimpleNamespace(cameras=arc_cameras(1, 64, 32), train=())
    return LiveViewer(config, scene, repairs, torch.device("cpu")).server


def serve(host="127.0.0.1", enhancer=None):
    scene, settings = ViewedScene(Brightness(), arc_cameras(1, 64, 32)), ViewSettings(moving_limit=32)
    load = lambda name: enhancer or Lifting()  # noqa: E731
    return SceneViewer(scene, load, host=host, port=free_port(), max_side=64, settings=settings)


ID = "uuid" if IS_VISER_1 else "id"


def named(control):
    return {ID: getattr(getattr(control, "_impl", control), ID)}


def send(watcher, kind, **fields):
    watcher._socket.send(msgspec.msgpack.encode({"type": kind, **fields}))


@pytest.mark.parametrize("start", [shown_by_harmonizer_view, shown_by_gsplat_trainer])
def test_strangers_get_the_public_page_and_nothing_else(start, monkeypatch):
    viewer = start(monkeypatch)
    try:
        assert_guarded(viewer.port)
    finally:
        viewer.close()


def test_an_open_server_answers_to_addresses_and_to_names_of_its_machine_and_proxy(monkeypatch):
    monkeypatch.setenv(PROXIES, "Viewer.example.org, other.example.org")
    viewer = serve("0.0.0.0")
    try:
        own = ("10.1.2.3", "[fe80::1]", f"{socket.gethostname().lower()}:{viewer.port}", "viewer.example.org")
        for host in own:
            assert ask(viewer.port, "/", Host=host)[0] == 200, host
            assert knock(viewer.port, Host=host, Origin=f"http://{host}") == 101, host
        behind_proxy = {"Host": f"127.0.0.1:{viewer.port}", "Origin": "https://viewer.example.org"}
        assert knock(viewer.port, **behind_proxy) == 101
        for host in ("evil.example", "example.org", "10.1.2.3.evil.example"):
            assert ask(viewer.port, "/", Host=host)[0] == 403, host
        assert knock(viewer.port, Host="10.1.2.3", Origin="http://evil.example") == 403
    finally:
        viewer.close()


NONSENSE = (b"", b"\xc1", b"\x80", msgspec.msgpack.encode([1, 2]), msgspec.msgpack.encode({"type": "NoSuchMessage"}),
            msgspec.msgpack.encode({"type": ["x"]}), msgspec.msgpack.encode({"type": "GuiUpdateMessage"}),
            b"\x91" * 5000, "text")  # fmt: skip
CAMERA = {
    "wxyz": (1.0, 0.0, 0.0, 0.0), "position": (0.0, 0.0, 0.0), "fov": 1.0,
    "look_at": (0.0, 0.0, 1.0), "up_direction": (0.0, -1.0, 0.0), **SHAPE,
}  # fmt: skip
BAD_SHAPES = (
    ({"image_height": 0}, {"image_width": 1}, {"near": math.nan})
    if IS_VISER_1
    else ({"aspect": math.inf}, {"aspect": 1e-9})
)
BAD_CAMERAS = (
    {"position": (math.nan, 0.0, 0.0)}, {"position": (1e30, 0.0, 0.0)}, {"position": (0.0, 0.0)}, {"fov": 0.0},
    {"fov": math.pi}, *BAD_SHAPES, {"wxyz": (0.0,) * 4}, {"wxyz": (1.0, 0.0)},
    {"up_direction": (0.0, -math.inf, 0.0)}, {"fov": "wide"},
)  # fmt: skip


def bad_values(panel):
    """By control: what a browser that shows the page would never send."""
    share = (math.nan, math.inf, -math.inf, 1.01, -0.01, "0.5", True, None, (0.5,), {"x": 1})
    return (
        (panel.enabled, ("false", 1, None, (True,))),
        (panel.enhancer, ("no-such", "/tmp/weights", "", 1, None, ("builtin",))),
        (panel.strength, share),
        (panel.split_at, share),
        (panel.moving_limit, (15, 1025, 10**9, 2**63, math.nan, "480", False)),
    )


def test_one_bad_client_changes_nothing_for_the_others():
    viewer = serve()
    try:
        before = viewer.panel.settings
        with Watcher(viewer.port) as good, Watcher(viewer.port) as bad:
            good.wait_for(1), bad.wait_for(1)
            wait_for(lambda: len(viewer.server.get_clients()) == 2)
            (number,) = viewer.server.get_clients().keys() - {min(viewer.server.get_clients())}
            control = viewer.panel.strength._impl
            for raw in NONSENSE:
                bad._socket.send(raw)
            for changed in BAD_CAMERAS:
                send(bad, "ViewerCameraMessage", **{**CAMERA, **changed})
            for handle, values in bad_values(viewer.panel):
                for value in values:
                    send(bad, "GuiUpdateMessage", **named(handle), updates={"value": value})
            for name in ("update_cb", "sync_cb", "visible", "gui_api", "nothing"):
                send(bad, "GuiUpdateMessage", **named(control), updates={name: ()})
                send(bad, "GuiUpdateMessage", **named(control), updates={"value": 0.3, name: ()})
            send(bad, "GuiUpdateMessage", **{ID: "no such control"}, updates={"value": 1})
            upload = {"source_component_id": getattr(control, ID), "transfer_uuid": "u"}
            send(bad, "FileTransferStart", filename="x", mime_type="x", part_count=1, size_bytes=1, **upload)
            send(bad, "FileTransferPart", part=0, content=b"x", **upload)
            send(bad, "GuiUpdateMessage", **named(control), updates={"value": 0.5})  # this one is in order
            wait_for(lambda: viewer.panel.settings.strength == 0.5)
            assert viewer.panel.settings == replace(before, strength=0.5)
            assert all((control.update_cb, control.sync_cb, getattr(control, "props", control).visible))
            seen = len(good.pictures)
            good.look((0.5, 0.0, 0.0))
            good.wait_for(seen + 1)
            assert viewer.panel.status.startswith("off")
            bad._socket.close()
            wait_for(lambda: number not in viewer.server.get_clients())
            assert viewer.watched
        wait_for(lambda: not viewer.watched)
    finally:
        viewer.close()


def test_controls_take_what_a_page_may_send():
    viewer = serve()
    try:
        add = viewer.server.gui
        number, vector = add.add_number("n", 1.0), add.add_vector3("v", (0.0, 0.0, 0.0), min=(-1.0, -1.0, -1.0))
        colour, name = add.add_rgb("c", (1, 2, 3)), add.add_text("Render name", "2026")
        text, choice = add.add_text("Output Directory", "exports/"), add.add_dropdown("d", ("a", "b"))
        group, button = add.add_button_group("g", ("x", "y")), add.add_button("b")
        multi = add.add_multi_slider("m", 0.0, 1.0, 0.1, (0.2, 0.4))
        for handle, value in ((number, 1e6), (number, -3), (vector, (0, 5.0, -1)), (colour, (0, 255, 9)), (choice, "b"),
                              (name, "my path 2"), (text, "../exports/pcd"), (group, "y"),
                              *([] if IS_VISER_1 else [(button, True)]),
                              (multi, (0.0, 1.0))):  # fmt: skip
            assert accepts(handle, value), (handle, value)
        choice.options = ("c", "d")
        assert accepts(choice, "c")
        for handle, value in ((choice, "b"), (number, math.nan), (vector, (0.0, 0.0)), (group, "z"),
                              (vector, (0.0, -1.1, 0.0)),
                              (colour, (0, 256, 0)), (colour, (0, -1, 0)), (multi, (0.0, 1.1)), (button, "x"),
                              (name, "../transforms"), (name, "/tmp/x"), (name, "..\\x"), (text, "a\nrm -r b"),
                              (text, "x" * 2000), (text, 5), (name, 5)):  # fmt: skip
            assert not accepts(handle, value), (handle, value)
    finally:
        viewer.close()


def accepts(handle, value):
    message = {"type": "GuiUpdateMessage", **named(handle), "updates": {"value": value}}
    return is_plausible(msgspec.msgpack.encode(message))
