# SPDX-License-Identifier: Apache-2.0
"""Where a viewer joins training."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

import torch

from gsplat_trainer.config import Config
from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.distill.repairs import Repairs
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.viewing.gui import ViewSettings
from harmonizer_ns.viewing.server import SceneViewer, ViewedScene
from harmonizer_ns.viewing.session import STEPS_PER_VERSION
from harmonizer_ns.viewing.worker import FairLock


class NoViewer:
    """Shows nothing; viewers do what it leaves out."""

    def training(self) -> AbstractContextManager:
        """Held while a step changes the splats: other threads may render only while nobody holds it."""
        return nullcontext()

    def after_step(self, step: int) -> None:
        """Called after every step."""

    def complete(self) -> None:
        """Called once everything has been written; may block while somebody watches."""


class LiveViewer(NoViewer):
    """Serves the scene in training to browsers, with the folder "Harmonizer".

    Its enhancer is its own: the run's may be at work in a round of repair at the same time.

    Args:
        config: of the run: where to listen, which enhancer to offer first.
        scene: gives the first view.
        repairs: gives the renderer and the photos for a view.
        device: where to enhance.
        seeds: points and their colours from which the splats began.
    """

    def __init__(
        self,
        config: Config,
        scene: Capture,
        repairs: Repairs,
        device: torch.device,
        seeds: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        self._lock, self._step = FairLock(), 0
        self.server = SceneViewer(
            ViewedScene(
                repairs.renderer,
                scene.cameras[0],
                repairs.photos if scene.train else None,
                scene.cameras if scene.train else (),
                seeds,
            ),
            lambda name: load_enhancer(name, device),
            settings=ViewSettings(enhancer="builtin" if config.enhancer == "none" else config.enhancer),
            host=config.viewer_host,
            port=config.port,
            guard=lambda: self._lock,
            version=lambda: self._step // STEPS_PER_VERSION,
        )

    def training(self) -> AbstractContextManager:
        """Held while a step changes the splats; waits while a frame is rendered."""
        return self._lock

    def after_step(self, step: int) -> None:
        """Show the progress to clients at rest, from time to time."""
        self._step = step
        self.server.scene_changed()

    def complete(self) -> None:
        """Stay while somebody watches, until interrupted."""
        self.server.refresh()
        if self.server.watched:
            print("The scene is shown until everybody has closed the viewer; stop with Ctrl+C")
        try:
            while self.server.watched:
                time.sleep(0.5)
        except KeyboardInterrupt:
            print("stopped")
        self.server.close()
