# SPDX-License-Identifier: Apache-2.0
"""Time and memory of one step at a time, on a CPU or a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_LINUX_RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Measurement:
    """What was measured.

    Args:
        milliseconds: of every call.
        peak: bytes at most; on a GPU of tensors, on a CPU of the whole process; None where it cannot be told.
    """

    milliseconds: tuple[float, ...]
    peak: int | None

    def quantile(self, share: float) -> float:
        """Milliseconds that this share of the calls take at most."""
        return float(torch.tensor(self.milliseconds).quantile(share))


def measure(step: Callable[[], Any], device: torch.device, calls: int, warmup: int) -> Measurement:
    """Time ``step`` one call at a time, after some calls to warm up."""
    for _ in range(warmup):
        step()
    _reset_peak(device)
    milliseconds = []
    for _ in range(calls):
        wait(device)
        start = time.perf_counter()
        step()
        wait(device)
        milliseconds.append(1e3 * (time.perf_counter() - start))
    return Measurement(tuple(milliseconds), _peak(device))


def device_name(device: torch.device) -> str:
    """A card's name, or how many threads a CPU has."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device}, {torch.get_num_threads()} thread(s)"


def wait(device: torch.device) -> None:
    """Until a GPU has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _LINUX_RESET.exists():
        _LINUX_RESET.write_text("5")  # the process's own high-water mark


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not _LINUX_RESET.exists():
        return None
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
