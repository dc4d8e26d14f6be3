# SPDX-License-Identifier: Apache-2.0
"""A scene in training and a large enhancer that works only now and then share one GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from harmonizer_ns.enhancers.base import Context, Enhancer, Repaired
from harmonizer_ns.types import Frames

SHORT_OF_MEMORY = 0.25
"""Free share of the GPU's memory below which an idle enhancer leaves it."""


def free_share(device: torch.device) -> float:
    """Free share of a device's memory, in [0, 1]; 1 for the CPU."""
    if device.type != "cuda":
        return 1.0
    free, total = torch.cuda.mem_get_info(device)
    return free / total


class ParkedEnhancer:
    """An enhancer that is on its frames' device while it works, and may wait on the CPU in between.

    Safe to call from several threads (viewer and trainer), one at a time.

    Args:
        enhancer: does the work.
        free: tells how much of a device's memory is free.
    """

    def __init__(self, enhancer: Enhancer, free: Callable[[torch.device], float] = free_share) -> None:
        self._enhancer, self._free, self._lock = enhancer, free, threading.Lock()
        self._device: torch.device | None = None
        self.max_references, self.max_context = enhancer.max_references, enhancer.max_context
        self.needs_geometry, self.errors_repeat = enhancer.needs_geometry, enhancer.errors_repeat

    def enhance(self, frames: Frames, context: Context = Context()) -> Repaired:
        """Repair a batch of frames, after coming to their device."""
        with self._lock:
            self._move(frames.rgb.device)
            return self._enhancer.enhance(frames, context)

    def to(self, device: torch.device | str) -> ParkedEnhancer:
        """Move the enhancer, until frames of another device come; returns itself."""
        with self._lock:
            self._move(torch.device(device))
        return self

    def rest(self) -> None:
        """Nothing to do for a while: go to the CPU if the device is short of memory."""
        with self._lock:
            device = self._device
            if device is not None and device.type == "cuda":
                torch.cuda.empty_cache()
            if device is not None and self._free(device) < SHORT_OF_MEMORY:
                self._move(torch.device("cpu"))
                if device.type == "cuda":
                    torch.cuda.empty_cache()

    def _move(self, device: torch.device) -> None:
        if device != self._device:
            self._enhancer.to(device)
        self._device = device
