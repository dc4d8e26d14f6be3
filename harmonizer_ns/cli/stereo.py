# SPDX-License-Identifier: Apache-2.0
"""``harmonizer evaluate --stereo DATA ...``: depth and seeds that photos give, to look at and in figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro

from harmonizer_ns.captures.capture import load_capture, read_views
from harmonizer_ns.cli.parsing import read_options
from harmonizer_ns.devices import Device, choose_device
from harmonizer_ns.errors import check_limits
from harmonizer_ns.evaluation.stereo import examine, stereo_report, write_sheet
from harmonizer_ns.files import locked
from harmonizer_ns.progress import counts_shown
from harmonizer_ns.raster.threads import get_num_threads, set_num_threads
from harmonizer_ns.report import write_report
from harmonizer_ns.stereo.settings import StereoSettings

EXAMPLES = """
harmonizer evaluate --stereo DATA --output depth
harmonizer evaluate --stereo captures/* --output depth --width 240 --photos 12
"""


@dataclass(frozen=True, kw_only=True)
class StereoConfig:
    """Look at the depth that photos give.

    For each capture a contact sheet shows photos, their depth, how sure it is, normals, and the seed points; also
    from places of photos that were not used. The report tells how much is covered and, where the capture knows
    the true depth (depth_file_path in transforms.json), how right it is.
    """

    scenes: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA [...]")]
    """Folders of captures."""
    output: Path
    """Folder for NAME.png of each capture, report.html, report.json and report.md."""
    width: int = StereoSettings.width
    """Photos are matched at most this many pixels wide."""
    photos: int = 24
    """Most photos of a capture, evenly spread over those to learn from."""
    threads: int = 1
    """Threads on a CPU."""
    device: Device = "auto"
    """Where to match; auto takes a GPU when there is one."""

    def __post_init__(self) -> None:
        check_limits(self, photos=(2, 10**6), threads=(1, 1024))


parse = partial(read_options, StereoConfig, "evaluate --stereo", EXAMPLES)


def main(config: StereoConfig) -> None:
    """Look at one capture after the other; the report tells of all."""
    torch.set_num_threads(config.threads)
    set_num_threads(config.threads)
    settings, device = StereoSettings(width=config.width), choose_device(config.device)
    output, results = config.output.resolve(), []
    with locked(output):
        for path in config.scenes:
            widest = max(view.lens.width for view in read_views(path).views)
            capture = load_capture(path, min(config.width, widest), with_tracks=True)
            with counts_shown():
                results.append(examine(capture, settings, config.photos, device))
            sheet = output / f"{capture.name}.png"
            write_sheet(sheet, results[-1])
            print(f"{sheet}: {len(results[-1].maps)} photos, {results[-1].seconds:.2f} s a photo")
        told = {"device": device, "threads": get_num_threads(), **asdict(settings)}
        print(write_report(output, stereo_report(results, told)))
