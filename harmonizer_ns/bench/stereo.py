# SPDX-License-Identifier: Apache-2.0
"""How fast depth is found in photos, and how much memory that takes."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from harmonizer_ns.bench.frames import parse_size
from harmonizer_ns.captures.capture import load_capture
from harmonizer_ns.devices import Device, choose_device
from harmonizer_ns.files import asset
from harmonizer_ns.raster.threads import set_num_threads
from harmonizer_ns.spread import evenly_spread
from harmonizer_ns.stereo.depth import estimate_depth
from harmonizer_ns.stereo.settings import StereoSettings


@dataclass(frozen=True)
class StereoBench:
    """Time the search for depth in photos of several sizes, each in a process of its own."""

    data: Path | None = None
    """Folder of a capture; the demo scene by default. Photos are brought to each size."""
    sizes: tuple[str, ...] = ("240x135", "480x270", "960x540")
    """Widths and heights."""
    photos: int = 10
    """Photos of the capture that are used, evenly spread."""
    threads: int = 1
    """Threads on a CPU."""
    device: Device = "auto"
    """Where to match; auto takes a GPU when there is one."""


def run(bench: StereoBench) -> None:
    """Print seconds a photo and peak memory for every size."""
    device = choose_device(bench.device)
    where = f"{bench.threads} thread(s)" if device == "cpu" else torch.cuda.get_device_name(device)
    print(f"{bench.photos} photos, {where}\n{'size':>10s} {'ms a photo':>11s} {'MiB added':>10s}")
    for size in bench.sizes:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            seconds, added = process.submit(measure, bench, parse_size(size), device).result()
        print(f"{size:>10s} {1e3 * seconds:11.0f} {added / 2**20:10.0f}")


def measure(bench: StereoBench, size: tuple[int, int], device: str) -> tuple[float, int]:
    """Measure seconds a photo, and the bytes that looking for depth adds to the photos themselves."""
    torch.set_num_threads(bench.threads)
    set_num_threads(bench.threads)
    capture = load_capture(bench.data or asset("demo"), size[0])
    photos = capture.part(evenly_spread(capture.train or range(len(capture)), bench.photos))
    photos = replace(photos, cameras=[camera.resized(*size) for camera in photos.cameras])
    estimate_depth(photos, StereoSettings(width=64), device=device)  # reads the photos and compiles
    before = _peak(device)
    start = time.perf_counter()
    estimate_depth(photos, StereoSettings(width=size[0]), device=device)
    return (time.perf_counter() - start) / len(photos), _peak(device) - before


def _peak(device: str) -> int:
    if device != "cpu":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
