# SPDX-License-Identifier: Apache-2.0
"""The frames of several clients: each has one stream and one set of photos; enhancers are loaded when they are chosen.

The rules that all viewers share stand here too: sizes and pauses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.base import Context, Enhancer
from harmonizer_ns.enhancers.gpu_sharing import ParkedEnhancer
from harmonizer_ns.enhancers.stream import CameraMotion, EnhancerStream
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.viewing.gui import ViewSettings

SelectPhotos = Callable[[Cameras], Frames | None]
"""Finds the photos for a view (a batch of one); may render depth, which takes the train lock."""

STEPS_PER_VERSION = 100
"""Training for so many steps changes the scene enough for the histories of enhanced frames to be forgotten."""
REFRESH = 5.0
"""Least seconds between two frames for a client at rest while the scene changes."""
REST_SHARE = 0.01
"""Largest share of a run's time that frames for clients at rest may take: training should not slow down for them."""
QUICK = 0.05
"""An enhancer that takes no more seconds than this keeps up with a moving camera; before others a render is shown."""
_SAME_SHIFT = 0.05
_SAME_ANGLE = 0.1


class EnhancedFrame(NamedTuple):
    """Enhanced colours, how long it took, and where it was done."""

    rgb: Float[Tensor, "1 3 h w"]
    milliseconds: float
    backend: str


@dataclass
class _Client:
    """A client's stream, and its photos: chosen again when the camera has moved on or the scene has changed."""

    enhancer: str
    stream: EnhancerStream
    version: Hashable = None
    camera: Cameras | None = None
    photos: Frames | None = None

    def photos_for(self, frame: Frames, version: Hashable, select: SelectPhotos) -> Frames | None:
        if self.camera is None or version != self.version or _moved(self.camera, frame):
            self.photos = select(frame.cameras)
            self.camera, self.version = frame.cameras, version
        return self.photos


def _moved(before: Cameras, frame: Frames) -> bool:
    motion = CameraMotion.between(before, frame.cameras, frame.depth)
    near = motion.shift <= _SAME_SHIFT * motion.depth or motion.shift == 0  # without depth only the same place is
    return not near or motion.angle > _SAME_ANGLE


class ViewSession:
    """Enhances the frames of all clients of a viewer. Call it from one thread (`LatestWorker`).

    Args:
        load: gives an enhancer by name; called once for each name that is chosen.
    """

    def __init__(self, load: Callable[[str], Enhancer]) -> None:
        self._load = load
        self._enhancers: dict[str, ParkedEnhancer] = {}
        self._clients: dict[Hashable, _Client] = {}

    @torch.no_grad()
    def enhance(
        self, client: Hashable, frame: Frames, settings: ViewSettings, select: SelectPhotos, version: Hashable = None
    ) -> EnhancedFrame:
        """Enhance one frame of a client.

        Args:
            client: whose history is used.
            frame: a batch of one.
            settings: that client's.
            select: finds photos.
            version: of the scene, see `EnhancerStream.enhance`.

        Raises:
            Exception: whatever loading or running the enhancer raises; the histories stay whole.
            ValueError: when it returns a wrong shape, NaN or infinity; this client's history is emptied.
        """
        state = self._client(client, settings.enhancer)
        enhancer = self._enhancers[settings.enhancer]
        started = time.perf_counter()
        wanted = settings.use_photos and enhancer.max_references > 0
        photos = state.photos_for(frame, version, select) if wanted else None
        if settings.temporal:
            repaired = state.stream.enhance(frame, photos, version)
        else:
            state.stream.reset()
            repaired = enhancer.enhance(frame, Context(references=(photos,)))
        try:
            repaired = repaired.checked(frame)
        except ValueError:
            state.stream.reset()  # it remembers what was just refused
            raise
        # What was checked is there, so these milliseconds are honest on a GPU too.
        return EnhancedFrame(repaired.rgb, (time.perf_counter() - started) * 1000, str(frame.rgb.device))

    def forget(self, client: Hashable) -> None:
        """Forget a client that has gone."""
        self._clients.pop(client, None)
        self._park()

    def _client(self, client: Hashable, name: str) -> _Client:
        if name not in self._enhancers:
            found = self._load(name)
            self._enhancers[name] = found if isinstance(found, ParkedEnhancer) else ParkedEnhancer(found)
        state = self._clients.get(client)
        if state is None or state.enhancer != name:
            state = self._clients[client] = _Client(name, EnhancerStream(self._enhancers[name]))
            self._park()
        return state

    def _park(self) -> None:
        """Enhancers that no client uses wait on the CPU."""
        used = {state.enhancer for state in list(self._clients.values())}
        for name, enhancer in list(self._enhancers.items()):
            if name not in used:
                enhancer.to("cpu")


def pause_at_rest(seconds: float, clients: int) -> float:
    """Seconds between two frames for clients at rest while a model trains, when one frame takes ``seconds``."""
    return max(REFRESH, seconds * clients / REST_SHARE)


def limited(width: int, height: int, limit: int) -> tuple[int, int]:
    """Find a size of the same aspect whose longest side is at most ``limit``."""
    scale = min(1.0, limit / max(width, height, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))
