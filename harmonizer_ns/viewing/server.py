# SPDX-License-Identifier: Apache-2.0
"""A plain viser server that shows anything that renders, enhanced when somebody wants it."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.images import to_pixels
from harmonizer_ns.poses import quaternion_to_rotation, rotation_to_quaternion
from harmonizer_ns.types import Cameras, Frames, Renderer
from harmonizer_ns.viewing.guard import guard_viser
from harmonizer_ns.viewing.gui import HarmonizerPanel, ViewSettings
from harmonizer_ns.viewing.session import EnhancedFrame, SelectPhotos, ViewSession, compose, limited, pause_at_rest
from harmonizer_ns.viewing.worker import LatestWorker

LOCALHOST = "127.0.0.1"
REST = 0.25
"""Seconds without motion after which the full resolution is rendered."""
_GLANCE = 64  # longest side of a render that only tells depth


class ViewedScene(NamedTuple):
    """What is looked at: a renderer, where to look from first (a batch of one), and what finds photos for a view."""

    renderer: Renderer
    start: Cameras
    photos: SelectPhotos = lambda view: None


class Shown(NamedTuple):
    """A frame on its way to a client."""

    picture: Float[Tensor, "1 3 h w"]
    enhanced: EnhancedFrame | None
    error: Exception | None


class SceneViewer:
    """Shows a scene to any number of browsers.

    Args:
        scene: what is shown.
        load: gives an enhancer by name.
        settings: what the controls show first.
        host: address to listen on; the default is not reachable from other machines.
        port: where to listen.
        guard: gives a context in which nobody changes the scene; held while it is rendered.
        version: of the scene, see `EnhancerStream.enhance`.
        max_side: longest side of a frame at rest, in pixels.
    """

    def __init__(
        self,
        scene: ViewedScene,
        load: Callable[[str], Enhancer],
        *,
        settings: ViewSettings = ViewSettings(),
        host: str = LOCALHOST,
        port: int = 8080,
        guard: Callable[[], AbstractContextManager] = nullcontext,
        version: Callable[[], Hashable] = lambda: None,
        max_side: int = 960,
    ) -> None:
        import viser

        guard_viser()
        self._scene = scene
        self._guard, self._version, self._max_side = guard, version, max_side
        self._distance = self._start_distance()
        self._seconds, self._refreshed = 0.0, time.monotonic()
        self.session = ViewSession(load)
        self.worker = LatestWorker(self._failed)
        self.server = viser.ViserServer(host=host, port=port)
        self.server.gui.configure_theme(dark_mode=True)
        self.panel = HarmonizerPanel(self.server.gui, settings, self.refresh)
        self.server.on_client_connect(self._connected)
        self.server.on_client_disconnect(self._disconnected)
        if host not in (LOCALHOST, "localhost", "::1"):
            print(f"warning: listening on {host}: whoever reaches this machine can look at the scene", file=sys.stderr)
        print(f"viewer: http://{host}:{self.port}")

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server.get_port()

    def refresh(self) -> None:
        """Show the scene anew to everybody: settings or splats have changed."""
        self.panel.show_choice()
        for client in self.server.get_clients().values():
            self._rest(client, delay=0.0)

    def scene_changed(self) -> None:
        """Training has moved on: show it to clients at rest when the last time is long ago."""
        clients = self.server.get_clients().values()
        if time.monotonic() - self._refreshed >= pause_at_rest(self._seconds, len(clients)):
            self._refreshed = time.monotonic()
            for client in clients:
                self._rest(client, delay=0.0, replace=False)

    @property
    def watched(self) -> bool:
        """Whether anybody is connected."""
        return bool(self.server.get_clients())

    def close(self) -> None:
        """Stop the worker, then the server."""
        self.worker.close()
        self.server.stop()

    def _connected(self, client: Any) -> None:
        place(client.camera, self._scene.start, self._distance)
        client.camera.on_update(lambda _: self._move(client))
        self._rest(client, delay=0.0)

    def _disconnected(self, client: Any) -> None:
        self.worker.forget(client.client_id)
        self.session.forget(client.client_id)

    def _start_distance(self) -> float:
        """Median depth of the first view: the mouse turns the scene around that point."""
        start = self._scene.start
        with self._guard():
            depth = self._scene.renderer.render(start.resized(*limited(start.width, start.height, _GLANCE))).depth
        return depth[depth > 0].median().item() if (depth > 0).any() else 1.0

    def _move(self, client: Any) -> None:
        limit = min(self.panel.settings.moving_limit, self._max_side)

        def deliver(shown: Shown) -> None:
            self._send(client, shown)
            self._rest(client, delay=REST, replace=False)

        self.worker.submit(client.client_id, lambda: self._frame(client, limit), deliver)

    def _rest(self, client: Any, delay: float, replace: bool = True) -> None:
        self.worker.submit(
            client.client_id,
            lambda: self._frame(client, self._max_side),
            lambda shown: self._send(client, shown),
            delay=delay,
            replace=replace,
        )

    def _frame(self, client: Any, limit: int) -> Shown:
        """Render and enhance where the client is now, and note how long that takes."""
        started = time.monotonic()
        shown = self._rendered(client, limit)
        self._seconds = time.monotonic() - started
        return shown

    def _rendered(self, client: Any, limit: int) -> Shown:
        """An enhancer's error is shown beside the plain render."""
        settings = self.panel.settings
        with self._guard():
            frame = self._scene.renderer.render(client_camera(client.camera, limit))
        if not settings.enabled:
            return Shown(frame.rgb, None, None)
        try:
            enhanced = self.session.enhance(client.client_id, frame, settings, self._select, self._version())
            return Shown(compose(frame.rgb, enhanced.rgb, settings), enhanced, None)
        except Exception as error:  # an enhancer may fail in any way; the scene stays visible and the panel says why
            return Shown(frame.rgb, None, error.with_traceback(None))  # its traceback would hold the tensors of the try

    def _select(self, view: Cameras) -> Frames | None:
        with self._guard():
            return self._scene.photos(view)

    def _send(self, client: Any, shown: Shown) -> None:
        picture = to_pixels(shown.picture[0])
        client.scene.set_background_image(picture, format="jpeg", jpeg_quality=85)
        if not self.panel.enabled.value:  # switched off meanwhile
            self.panel.show_choice()
        elif shown.error is not None:
            self.panel.show_error(shown.error)
        elif shown.enhanced is not None:
            height, width = picture.shape[:2]
            self.panel.show_speed(shown.enhanced.milliseconds, shown.enhanced.backend, (width, height))

    def _failed(self, client: Hashable, error: Exception) -> None:
        self.panel.show_error(error, "No new picture")


def client_camera(camera: Any, limit: int) -> Cameras:
    """A viser camera (OpenCV axes, vertical field of view) at the size whose longest side is ``limit``."""
    aspect = max(float(camera.aspect), 1e-3)
    scale = limit / max(aspect, 1.0)
    width, height = limited(round(scale * aspect), round(scale), limit)
    focal = height / 2 / math.tan(float(camera.fov) / 2)
    pose = torch.eye(4)
    pose[:3, :3] = quaternion_to_rotation(torch.tensor(np.asarray(camera.wxyz), dtype=torch.float32))
    pose[:3, 3] = torch.tensor(np.asarray(camera.position), dtype=torch.float32)
    intrinsics = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return Cameras(pose[None], intrinsics[None], width, height)


def place(camera: Any, start: Cameras, distance: float) -> None:
    """Move a client's camera (viser) to a view, let "up" be that view's, and turn around the point so far ahead."""
    pose = start.camera_to_world[0].cpu()
    camera.up_direction = (-pose[:3, 1]).numpy()
    camera.position = pose[:3, 3].numpy()
    camera.wxyz = rotation_to_quaternion(pose[:3, :3]).numpy()
    camera.look_at = (pose[:3, 3] + distance * pose[:3, 2]).numpy()
    camera.fov = 2 * math.atan(start.height / 2 / start.intrinsics[0, 1, 1].item())
