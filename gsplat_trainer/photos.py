# SPDX-License-Identifier: Apache-2.0
"""Photos come to the device where splats learn from them; a GPU's are fetched one step ahead."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from harmonizer_ns.captures.capture import Capture, Photo
from harmonizer_ns.devices import sent


class PhotosAhead:
    """Gives a scene's photos and masks, in bytes, on a device.

    For a GPU a thread reads the photos that are expected next, and puts them where a GPU copies from without help,
    while the step before runs; so a step waits neither for a file nor for the bus. What is given is the same.

    Args:
        scene: has the photos.
        device: where they are wanted.
    """

    def __init__(self, scene: Capture, device: torch.device) -> None:
        self._scene, self._device = scene, device
        self._ahead: dict[int, Future[Photo]] = {}
        self._thread: ThreadPoolExecutor | None = None
        if device.type == "cuda":
            self._thread = ThreadPoolExecutor(1, "photos", torch.cuda.set_device, (device.index or 0,))

    def expect(self, indices: Iterable[int]) -> None:
        """Begin to fetch the photos of the next step; others that were expected are forgotten."""
        if self._thread is not None:
            self._ahead = {i: self._ahead.get(i) or self._thread.submit(self._read, i) for i in indices}

    def __getitem__(self, index: int) -> Photo:
        expected = self._ahead.get(index)
        photo, mask = self._read(index) if expected is None else expected.result()
        return sent(photo, self._device), None if mask is None else sent(mask, self._device)

    def _read(self, index: int) -> Photo:
        photo, mask = self._scene.photo(index), self._scene.mask(index)
        if self._device.type != "cuda":
            return photo, mask
        return photo.pin_memory(), None if mask is None else mask.pin_memory()
