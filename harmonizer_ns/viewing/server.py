# SPDX-License-Identifier: Apache-2.0
"""A plain viser server that shows anything that renders, enhanced when somebody wants it."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.drawing import colored_depth, draw_points
from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.images import to_pixels
from harmonizer_ns.poses import quaternion_to_rotation, rotation_to_quaternion
from harmonizer_ns.types import Cameras, Frames, Renderer
from harmonizer_ns.viewing.guard import guard_viser
from harmonizer_ns.viewing.gui import VIEWS, CameraPanel, HarmonizerPanel, View, ViewSettings
from harmonizer_ns.viewing.picture import compose
from harmonizer_ns.viewing.session import QUICK, SelectPhotos, ViewSession, limited, pause_at_rest
from harmonizer_ns.viewing.watchers import Shown, Watcher
from harmonizer_ns.viewing.worker import LatestWorker

LOCALHOST = "127.0.0.1"
REST = 0.25
"""Seconds without motion after which the full resolution is rendered."""
_GLANCE = 64  # longest side of a render that only tells depth


class ViewedScene(NamedTuple):
    """Holds what is looked at.

    Args:
        renderer: of the scene.
        start: where to look from first, a batch of one.
        photos: finds photos for a view; None where there are none.
        places: where photos were taken, batches of one.
        seeds: points and their colours from which the splats began; None where they are not known.
    """

    renderer: Renderer
    start: Cameras
    photos: SelectPhotos | None = None
    places: Sequence[Cameras] = ()
    seeds: tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]] | None = None


class SceneViewer:
    """Shows a scene to any number of browsers.

    Frames are rendered on one thread and enhanced on another. While the camera moves, an enhancer that keeps up is seen
    in every frame; with others a render is seen at once, and the enhanced frame when the camera rests. Nobody is sent a
    frame from where they were before the one that they see.

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
        self._distance = self._distance_from(scene.start)
        self._watchers: dict[Hashable, Watcher] = {}
        self._costs: dict[str, float] = {}  # of enhancers, in seconds per pixel
        self._seconds, self._refreshed = 0.0, time.monotonic()
        self.session = ViewSession(load)
        self.rendering, self.enhancing = LatestWorker(self._failed), LatestWorker(self._failed)
        self.server = viser.ViserServer(host=host, port=port)
        self.server.gui.configure_theme(dark_mode=True)
        views: tuple[View, ...] = tuple(view for view in VIEWS if view != "seeds" or scene.seeds is not None)
        self.panel = HarmonizerPanel(self.server.gui, settings, self.refresh, views, scene.photos is not None)
        self.cameras = CameraPanel(self.server.gui, len(scene.places), self._go)
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
        for watcher in list(self._watchers.values()):
            if not self._show_again(watcher):
                self._rest(watcher, delay=0.0)

    def scene_changed(self) -> None:
        """Training has moved on: show it to clients at rest when the last time is long ago."""
        watchers = list(self._watchers.values())
        if time.monotonic() - self._refreshed >= pause_at_rest(self._seconds, len(watchers)):
            self._refreshed = time.monotonic()
            for watcher in watchers:
                self._rest(watcher, delay=0.0, replace=False)

    @property
    def watched(self) -> bool:
        """Whether anybody is connected."""
        return bool(self.server.get_clients())

    def close(self) -> None:
        """Stop the workers, then the server."""
        self.rendering.close()
        self.enhancing.close()
        self.server.stop()

    # --- people -------------------------------------------------------------------------------------------------------

    def _connected(self, client: Any) -> None:
        watcher = self._watchers[client.client_id] = Watcher(client)
        self._go(client, None)
        client.camera.on_update(lambda _: self._move(watcher))
        self._rest(watcher, delay=0.0)

    def _disconnected(self, client: Any) -> None:
        self._watchers.pop(client.client_id, None)
        self.rendering.forget(client.client_id)
        self.enhancing.forget(client.client_id)
        self.session.forget(client.client_id)

    def _go(self, client: Any, photo: int | None) -> None:
        """Bring a client to a photo's place, or to the start; the mouse turns the scene around what is seen there."""
        if client is None:  # a control that was set by the program
            return
        if photo is None:
            place(client.camera, self._scene.start, self._distance)
        else:
            camera = self._scene.places[photo]
            place(client.camera, camera, self._distance_from(camera))

    def _distance_from(self, camera: Cameras) -> float:
        """Median depth of what a camera sees."""
        with self._guard():
            depth = self._scene.renderer.render(camera.resized(*limited(camera.width, camera.height, _GLANCE))).depth
        return depth[depth > 0].median().item() if (depth > 0).any() else 1.0

    # --- frames -------------------------------------------------------------------------------------------------------

    def _move(self, watcher: Watcher) -> None:
        watcher.pose += 1
        limit = min(self.panel.settings.moving_limit, self._max_side)

        def show(shown: Shown) -> None:
            if shown.settings.wants_enhanced and self._keeps_up(shown):
                self._enhance(watcher, shown)
            else:
                self._send(watcher, shown)
            self._rest(watcher, delay=REST, replace=False)

        self.rendering.submit(watcher.client.client_id, lambda: self._frame(watcher, limit, moving=True), show)

    def _rest(self, watcher: Watcher, delay: float, replace: bool = True) -> None:
        def show(shown: Shown) -> None:
            if not shown.settings.wants_enhanced:
                self._send(watcher, shown)
                return
            if not (self._keeps_up(shown) or watcher.sees_enhanced(shown.pose)):
                self._send(watcher, shown)
                self.panel.show_work(shown.size)
            self._enhance(watcher, shown)

        client = watcher.client.client_id
        self.rendering.submit(client, lambda: self._frame(watcher, self._max_side), show, delay=delay, replace=replace)

    def _frame(self, watcher: Watcher, limit: int, moving: bool = False) -> Shown:
        """Render where the client is now."""
        started, pose = time.monotonic(), watcher.pose
        with self._guard():
            frame = self._scene.renderer.render(client_camera(watcher.client.camera, limit))
        self._seconds = time.monotonic() - started
        return Shown(frame, self.panel.settings, pose, moving)

    def _keeps_up(self, shown: Shown) -> bool:
        """Tell whether the enhancer, by what it took last, is quick enough for a moving camera."""
        width, height = shown.size
        return self._costs.get(shown.settings.enhancer, math.inf) * width * height <= QUICK

    def _enhance(self, watcher: Watcher, shown: Shown) -> None:
        client = watcher.client.client_id
        self.enhancing.submit(client, lambda: self._enhanced(client, shown), lambda done: self._send(watcher, done))

    def _enhanced(self, client: Hashable, shown: Shown) -> Shown:
        """Repair a frame; an enhancer's error is shown beside the plain render."""
        name = shown.settings.enhancer
        try:
            enhanced = self.session.enhance(client, shown.frame, shown.settings, self._select, self._version())
        except Exception as error:  # an enhancer may fail in any way; the scene stays visible and the panel says why
            self._costs.pop(name, None)
            return shown._replace(error=error.with_traceback(None))  # it would hold the tensors of the try
        width, height = shown.size
        self._costs[name] = enhanced.milliseconds / 1000 / (width * height)
        self._seconds += enhanced.milliseconds / 1000
        return shown._replace(enhanced=enhanced)

    def _select(self, view: Cameras) -> Frames | None:
        if self._scene.photos is None:
            return None
        with self._guard():
            return self._scene.photos(view)

    def _send(self, watcher: Watcher, shown: Shown) -> None:
        """Show a frame, unless its client has moved on since."""
        with watcher.sending:
            quick = shown.enhanced is not None and self._keeps_up(shown)
            latest = watcher.shown.pose if quick and watcher.shown is not None else watcher.pose
            if shown.enhanced is not None and shown.pose < latest:
                return
            watcher.shown = shown
            self._put(watcher, shown)
        self._tell(watcher, shown)

    def _show_again(self, watcher: Watcher) -> bool:
        """Show the frame that is seen under the settings of now, if nothing has to be made for that."""
        shown, settings = watcher.shown, self.panel.settings
        if shown is None or shown.moving or shown.error or not settings.enhances_like(shown.settings):
            return False
        if shown.pose != watcher.pose or (settings.wants_enhanced and shown.enhanced is None):
            return False
        self._send(watcher, shown)
        return True

    def _put(self, watcher: Watcher, shown: Shown) -> None:
        picture = to_pixels(self._picture(shown, self.panel.settings)[0])
        watcher.client.scene.set_background_image(picture, format="jpeg", jpeg_quality=85)

    def _picture(self, shown: Shown, settings: ViewSettings) -> Float[Tensor, "1 3 h w"]:
        """Give the picture of a frame, by the settings of now."""
        if settings.show == "depth":
            return colored_depth(shown.frame.depth[0, 0])[None]
        if settings.show == "seeds" and self._scene.seeds is not None:
            return draw_points(*self._scene.seeds, shown.frame.cameras)[None]
        if not settings.enabled or shown.error is not None:
            return shown.frame.rgb
        return compose(shown.frame.rgb, None if shown.enhanced is None else shown.enhanced.rgb, settings)

    def _tell(self, watcher: Watcher, shown: Shown) -> None:
        """Let the status say what is seen."""
        if shown.moving:
            watcher.times.append(time.monotonic())
        if self.panel.enabled.value and shown.error is not None:
            self.panel.show_error(shown.error)
        elif self.panel.settings.wants_enhanced and shown.enhanced is not None:
            self.panel.show_speed(shown.enhanced.milliseconds, shown.enhanced.backend, shown.size)
        elif shown.moving and (rate := watcher.rate()):
            self.panel.show_motion(rate, shown.size)
        else:
            self.panel.show_choice()

    def _failed(self, client: Hashable, error: Exception) -> None:
        self.panel.show_error(error, "No new picture")


def client_camera(camera: Any, limit: int) -> Cameras:
    """Read a viser camera (OpenCV axes, vertical field of view), at the size whose longest side is ``limit``."""
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
