# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's live viewer gets a folder "Harmonizer", and sends every client's frames through one worker.

nerfstudio finds a `ViewerControl` among the pipeline's attributes and shows it the viewer. Each client has a render
thread there (`RenderStateMachine`), which holds the train lock and a trace while it renders; both are released when it
sends its frame. That is where a client is followed: its outputs go to the worker, which enhances and sends them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from typing import Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.utils import get_camera
from nerfstudio.viewer.viewer_elements import ViewerControl

from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.plugin.cameras import from_nerfstudio, is_pinhole
from harmonizer_ns.plugin.models import ENHANCED
from harmonizer_ns.plugin.renderer import frames_from_outputs
from harmonizer_ns.viewing.gui import PLAIN_VIEWS, VIEWS, HarmonizerPanel, View, ViewSettings
from harmonizer_ns.viewing.picture import compose
from harmonizer_ns.viewing.session import (
    STEPS_PER_VERSION,
    EnhancedFrame,
    ViewSession,
    limited,
    pause_at_rest,
)
from harmonizer_ns.viewing.worker import LatestWorker

SLOW = 0.25
"""An enhancer that takes more seconds than this shows the plain render first, and alone while the camera moves."""
LEAP = 1.5
"""The size in motion changes only when nerfstudio wants it so much larger or smaller."""


class HarmonizerViewerControl(ViewerControl):
    """Adds enhancement to nerfstudio's viewer when that is built.

    Args:
        pipeline: the `HarmonizePipeline` whose model is shown.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self._clients: dict[int, ViewerClient] = {}

    def _setup(self, viewer: Any) -> None:
        super()._setup(viewer)
        self.session = ViewSession(self._load)
        self.worker = LatestWorker(self._failed)
        settings = ViewSettings(enhancer=self.pipeline.config.enhancer)
        views: tuple[View, ...] = tuple(view for view in VIEWS if view not in PLAIN_VIEWS)  # depth is nerfstudio's
        self.panel = HarmonizerPanel(viewer.viser_server.gui, settings, self._changed, views)
        viewer.viser_server.on_client_connect(self._connected)
        viewer.viser_server.on_client_disconnect(self._disconnected)

    def version(self) -> Hashable:
        """Changes with every large update of the scene and with the crop."""
        panel = self.viewer.control_panel
        box = panel.crop_obb if panel.crop_viewport else None
        sides = () if box is None else (box.R, box.T, box.S)
        crop = tuple(value for part in sides for value in part.flatten().tolist())
        return self.viewer.step // STEPS_PER_VERSION, crop, tuple(panel.background_color)

    def _load(self, name: str) -> Any:
        """The pipeline's own enhancer is shared with training; others are loaded beside it."""
        if name == self.pipeline.config.enhancer:
            return self.pipeline.repairs.enhancer
        return load_enhancer(name, self.pipeline.model.device)

    def _changed(self) -> None:
        self.panel.show_choice()
        self.viewer._trigger_rerender()

    def _connected(self, client: Any) -> None:
        self._clients[client.client_id] = ViewerClient(self, self.viewer.render_statemachines[client.client_id])

    def _disconnected(self, client: Any) -> None:
        self._clients.pop(client.client_id, None)
        self.worker.forget(client.client_id)
        self.session.forget(client.client_id)

    def _failed(self, client: Hashable, error: Exception) -> None:
        CONSOLE.log(f"[yellow]The viewer shows the plain render: {error!r}")
        self.panel.show_error(error)
        follower = self._clients.get(client)  # type: ignore[arg-type]
        if follower is not None:
            follower.send_plain()


class ViewerClient:
    """Follows one client's render thread, and sends its frames by way of the worker when they should be enhanced.

    Args:
        control: what all clients share.
        machine: the client's `RenderStateMachine`; three of its methods are wrapped, on this instance only.
    """

    def __init__(self, control: HarmonizerViewerControl, machine: Any) -> None:
        self._control, self._machine = control, machine
        self._id = machine.client.client_id
        self._render, self._send, self._size = (
            machine._render_img,
            machine._send_output_to_viewer,
            machine._calculate_image_res,
        )
        self._outputs: dict[str, Any] | None = None
        self._camera: Any = None
        self._last: tuple[Hashable, float] = (None, 0.0)
        self._seconds = 0.0
        self._held = 1, 1
        self._number = self._shown = 0
        self._sending = threading.Lock()
        machine._render_img, machine._send_output_to_viewer = self.render, self.send
        machine._calculate_image_res = self.size

    def size(self, aspect: float) -> tuple[int, int]:
        """Height and width. While the camera moves they are limited, and follow nerfstudio's estimate only in leaps.

        That estimate changes with every frame, and a frame of another size has no history.
        """
        height, width = self._size(aspect)
        settings = self._control.panel.settings
        if not settings.enabled or self._machine.state == "high":
            return height, width
        width, height = limited(width, height, settings.moving_limit)
        held_height, held_width = self._held
        same_aspect = abs(held_width - held_height * aspect) <= 1
        if not (same_aspect and max(held_height / height, height / held_height) < LEAP):
            self._held = height, width
        return self._held

    def render(self, camera_state: Any) -> dict[str, Any]:
        """Render as nerfstudio does, and remember the camera."""
        outputs = self._render(camera_state)
        if "rgb" in outputs:
            self._camera = get_camera(camera_state, *outputs["rgb"].shape[:2])
        return outputs

    def send(self, outputs: dict[str, Any], static_render: bool = True) -> None:
        """Send a frame now, or hand it to the worker when its enhanced image is wanted."""
        settings = self._control.panel.settings
        self._number += 1
        if not self._wants_enhanced(settings) or "accumulation" not in outputs:
            self._last = (None, 0.0)
            self._put(self._number, outputs, static_render)
            return
        if static_render and self._is_fresh(settings):
            return
        plain = {name: outputs[name] for name in outputs if name != ENHANCED}
        self._outputs = plain
        if self._seconds > SLOW or not self._last[1]:
            self.send_plain(static_render)
        if self._seconds > SLOW and not static_render:
            return
        camera, number = self._camera, self._number
        self._last = (self._key(settings), time.monotonic())
        self._control.worker.submit(
            self._id,
            lambda: self._enhance(camera, plain, settings),
            lambda enhanced: self._deliver(number, plain, enhanced, settings, static_render),
        )

    def send_plain(self, static_render: bool = True) -> None:
        """Show the render as it is, with a word on what is under way; in the enhanced image's place too."""
        if self._outputs is not None:
            rgb, settings = self._outputs["rgb"], self._control.panel.settings
            shown = _as_output(compose(_as_batch(rgb), None, settings)) if settings.enabled else rgb
            self._put(self._number, {**self._outputs, "rgb": shown, ENHANCED: rgb}, static_render)

    def _put(self, number: int, outputs: dict[str, Any], static_render: bool) -> None:
        """Send a frame, unless a later one is seen already."""
        with self._sending:
            if number >= self._shown:
                self._shown = number
                self._send(outputs, static_render)

    def _wants_enhanced(self, settings: ViewSettings) -> bool:
        panel = self._control.viewer.control_panel
        chosen = panel.output_render == ENHANCED or (panel.split and panel.split_output_render == ENHANCED)
        return settings.enabled or chosen

    def _key(self, settings: ViewSettings) -> Hashable:
        panel = self._control.viewer.control_panel
        pose = tuple(self._camera.camera_to_worlds.flatten().tolist())
        shown = panel.output_render, panel.split, panel.split_output_render, panel.split_percentage
        return pose, int(self._camera.width), int(self._camera.height), settings, shown

    def _is_fresh(self, settings: ViewSettings) -> bool:
        """Whether this very view was enhanced a moment ago: training goes on while the camera rests."""
        key, when = self._last
        pause = pause_at_rest(self._seconds, len(self._control.viewer.render_statemachines))
        return key == self._key(settings) and time.monotonic() - when < pause

    def _enhance(self, camera: Any, outputs: dict[str, Any], settings: ViewSettings) -> EnhancedFrame:
        control, pipeline = self._control, self._control.pipeline
        view = from_nerfstudio(camera).to(outputs["rgb"].device)
        frame = frames_from_outputs(pipeline.model, outputs, view)
        photos = pipeline.photos_for if is_pinhole(camera) else lambda view: None  # they are warped into pinhole views
        return control.session.enhance(self._id, frame, settings, photos, control.version())

    def _deliver(
        self, number: int, outputs: dict[str, Any], enhanced: EnhancedFrame, settings: ViewSettings, static: bool
    ) -> None:
        self._seconds = enhanced.milliseconds / 1000
        if not self._wants_enhanced(self._control.panel.settings):  # switched off meanwhile
            return
        rgb = _as_batch(outputs["rgb"])
        shown = compose(rgb, enhanced.rgb, settings) if settings.enabled else rgb
        self._put(number, {**outputs, "rgb": _as_output(shown), ENHANCED: _as_output(enhanced.rgb)}, static)
        height, width = rgb.shape[-2:]
        self._control.panel.show_speed(enhanced.milliseconds, enhanced.backend, (width, height))


def _as_batch(output: torch.Tensor) -> torch.Tensor:
    return output.permute(2, 0, 1)[None]


def _as_output(rgb: torch.Tensor) -> torch.Tensor:
    return rgb[0].permute(1, 2, 0)
