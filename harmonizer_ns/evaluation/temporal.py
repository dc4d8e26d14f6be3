# SPDX-License-Identifier: Apache-2.0
"""Does enhanced video flicker? The path of held-out photos is flown with and without the enhancer's own history.

Between two photos in capture order there are interpolated views. The warp error compares each frame with the one before
through the exact flow of the rendered geometry, where both show the same surface; quality is measured where the path
passes a held-out photo. From photo to photo the photos themselves have a warp error too: that is the floor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from rich.table import Table
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.enhancers.stream import EnhancerStream
from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation import page
from harmonizer_ns.evaluation.enhancer import print_missing, write_images
from harmonizer_ns.evaluation.networks import Networks
from harmonizer_ns.evaluation.quality import Scores, scores_of
from harmonizer_ns.evaluation.rendered import FittedScene
from harmonizer_ns.evaluation.report import SceneResult, ViewResult, average, scene_result, wide_console
from harmonizer_ns.evaluation.settings import VIEWS, EvaluationConfig
from harmonizer_ns.evaluation.video import VideoMeasures
from harmonizer_ns.files import write_json
from harmonizer_ns.flow import depth_flow
from harmonizer_ns.poses import interpolate_pose
from harmonizer_ns.report import Table as ReportTable
from harmonizer_ns.report import write_report
from harmonizer_ns.splats.held_out import SparseFit, select_references
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.views import ENHANCED, PLAIN, TRUTH, JudgedView, view_of

SINGLE = "no history"
"""The video of which each frame is enhanced by itself."""
Video = Sequence[Float[Tensor, "1 3 h w"]]


@dataclass(frozen=True)
class TemporalResult:
    """Holds what a flight scored.

    Args:
        scene: its name.
        frames: how many were flown.
        path: of the videos, by name.
        photos: at the held-out photos; the videos there go from photo to photo, that of the truth too.
    """

    scene: str
    frames: int
    path: dict[str, Scores]
    photos: SceneResult

    def flat(self) -> dict[str, Any]:
        """Give the result as JSON holds it: the main figures by one name each, all figures below ``path``, ``photos``.

        Warp errors are root mean square differences of colours in [0, 1], PSNR is in dB.
        """
        names = {"warp_render": PLAIN, "warp_enhanced": ENHANCED, "warp_single": SINGLE}
        warp = {name: self.path[video]["warp_error"] for name, video in names.items()}
        names = {"photo_to_photo_render": PLAIN, "photo_to_photo_enhanced": ENHANCED, "photo_to_photo_truth": TRUTH}
        floor = {name: self.photos.score("warp_error", role) for name, role in names.items()}
        quality = {
            f"psnr_{word}": self.photos.score("psnr", r) for word, r in (("render", PLAIN), ("enhanced", ENHANCED))
        }
        more = {"path": self.path, "photos": self.photos.flat()}
        return {"scene": self.scene, "frames": self.frames, **warp, **quality, **floor, **more}


class Flight(NamedTuple):
    """Holds what a flight shows.

    Args:
        renders: every frame, with its geometry.
        videos: the same frames by name: plain, enhanced, enhanced without history.
        stops: frames at which a held-out photo is passed.
        photos: indices of these.
    """

    renders: list[Frames]
    videos: dict[str, Video]
    stops: list[int]
    photos: tuple[int, ...]


def evaluate(
    config: EvaluationConfig, scenes: Iterable[tuple[FittedScene, Enhancer | None]], networks: Networks
) -> None:
    """Fly through all scenes, print the table, and write what was asked for."""
    console, results = wide_console(), []
    for scene, enhancer in scenes:
        if enhancer is None:
            raise InputError(f"{scene.name} names no enhancer, give one with --enhancer")
        with console.status(f"{scene.name}: flying"):
            folder = page.scene_folder(config.output, scene.name)
            results.append(evaluate_scene(scene, enhancer, config, networks, folder))
    table = path_table(results)
    console.print(on_terminal(table))
    print_missing(console, networks)
    if config.output:
        data = {"scenes": [result.flat() for result in results]}
        write_json(config.output / "temporal.json", {"protocol": config.settings(), **data}, indent=2)
        photos = [result.photos for result in results]
        found = page.report_of("Flight through", photos, average(photos), config, networks)
        found = replace(found, tables=(table, *found.tables), data=data)
        console.print(f"Report: {write_report(config.output, found)}", highlight=False)


def evaluate_scene(
    scene: FittedScene, enhancer: Enhancer, config: EvaluationConfig, networks: Networks, folder: Path | None = None
) -> TemporalResult:
    """Fly, enhance with and without history, and measure.

    Args:
        scene: a reconstruction with held-out photos, which are passed in their order.
        enhancer: repairs.
        config: how many photos are passed, and how many frames come between.
        networks: those that measure.
        folder: where pictures at the photos go; None writes none.

    Raises:
        InputError: when fewer than two photos are held out.
    """
    flight = fly(scene.fit, enhancer, scene.fit.capture.test[: config.views or VIEWS], config.between)
    views = _at_photos(flight, scene.fit.capture)
    for view in views if folder else ():
        write_images(folder, view)  # type: ignore[arg-type]
    measured = [ViewResult(view.name, view.shows, scores_of(view, networks)) for view in views]
    stops: dict[str, Video] = {
        name: [video[i] for i in flight.stops] for name, video in flight.videos.items() if name != SINGLE
    }
    stops[TRUTH] = [view.truth[None] for view in views]
    from_photo_to_photo = video_scores([flight.renders[i] for i in flight.stops], stops, networks)
    photos = scene_result(scene.name, measured, from_photo_to_photo)
    path = torch.cat([frame.cameras.centers.cpu() for frame in flight.renders])
    photos = replace(photos, positions={**scene.positions, "path": path}, how=scene.how)
    return TemporalResult(
        scene.name, len(flight.renders), video_scores(flight.renders, flight.videos, networks), photos
    )


def fly(fit: SparseFit, enhancer: Enhancer, passed: tuple[int, ...], between: int) -> Flight:
    """Render and enhance the way from photo to photo.

    Args:
        fit: the reconstruction.
        enhancer: repairs.
        passed: indices of the photos.
        between: frames between two of them.

    Raises:
        InputError: when fewer than two photos are passed.
    """
    renders = [fit.renderer.render(camera) for camera in trajectory(fit.capture, passed, between)]
    videos: dict[str, Video] = {PLAIN: [frame.rgb for frame in renders]}
    for name, history in ((ENHANCED, True), (SINGLE, False)):
        videos[name] = enhance_video(fit, renders, enhancer, history)
    return Flight(renders, videos, list(range(0, len(renders), between + 1)), passed)


def _at_photos(flight: Flight, capture: Capture) -> list[JudgedView]:
    return [
        view_of(capture, index, {name: flight.videos[name][stop][0] for name in (PLAIN, ENHANCED)})
        for index, stop in zip(flight.photos, flight.stops, strict=True)
    ]


def video_scores(geometry: Sequence[Frames], videos: dict[str, Video], networks: Networks) -> dict[str, Scores]:
    """Measure videos through the exact flow of their geometry; frames of different sizes are not compared."""
    measures = VideoMeasures(networks)
    for number, frame in enumerate(geometry):
        before, flow = geometry[number - 1], None
        if number and frame.rgb.shape == before.rgb.shape:
            flow = depth_flow(frame.depth, frame.cameras, before.depth, before.cameras)
        measures.add({name: video[number][0] for name, video in videos.items()}, flow, still=False)
    return measures.scores()


def trajectory(capture: Capture, passed: tuple[int, ...], between: int) -> list[Cameras]:
    """From photo to photo with interpolated poses; all with the first one's intrinsics and size when they differ.

    Raises:
        InputError: when fewer than two photos are passed.
    """
    if len(passed) < 2:
        raise InputError(f"{capture.name} has {len(passed)} held-out photos, a trajectory needs at least two")
    stops = [capture.cameras[i] for i in passed]
    path = []
    for start, end in pairwise(stops):
        for step in range(between + 1):
            pose = interpolate_pose(start.camera_to_world[0], end.camera_to_world[0], step / (between + 1))
            path.append(replace(start, camera_to_world=pose[None].to(start.camera_to_world)))
    return [*path, stops[-1]]


def enhance_video(
    fit: SparseFit, renders: list[Frames], enhancer: Enhancer, history: bool
) -> list[Float[Tensor, "1 3 h w"]]:
    """Every frame in order, with the nearest fitted photos."""
    stream = EnhancerStream(enhancer) if history else EnhancerStream(enhancer, 0)
    output = []
    for frame in renders:
        references = select_references(fit, frame.cameras, enhancer.max_references)
        output.append(stream.enhance(frame, references).rgb)
    return output


PATH_COLUMNS = {
    "frames": "frames",
    "warp error ↓ plain": "warp_render",
    "warp error ↓ enhanced": "warp_enhanced",
    "warp error ↓ no history": "warp_single",
    "photo to photo ↓ plain": "photo_to_photo_render",
    "photo to photo ↓ enhanced": "photo_to_photo_enhanced",
    "photo to photo: photos": "photo_to_photo_truth",
    "PSNR ↑ plain": "psnr_render",
    "PSNR ↑ enhanced": "psnr_enhanced",
}
"""Of the table, and where `TemporalResult.flat` has their figures."""


def path_table(results: Sequence[TemporalResult]) -> ReportTable:
    """Show every flight; errors are multiplied by 1000."""
    rows = []
    for result in results:
        figures = result.flat()
        rows.append((result.scene, *(_shown(name, figures[key]) for name, key in PATH_COLUMNS.items())))
    note = "Warp errors are multiplied by 1000. From photo to photo, that of the photos is the floor."
    return ReportTable("Flight along held-out photos", ("scene", *PATH_COLUMNS), tuple(rows), note)


def _shown(name: str, value: float | None) -> str | float | None:
    if name == "frames" or value is None:
        return None if value is None else str(value)
    return value if name.startswith("PSNR") else 1000 * value


def on_terminal(table: ReportTable) -> Table:
    """Give a report's table as the terminal prints it."""
    shown = Table(title=table.title, caption=table.note)
    for number, name in enumerate(table.columns):
        shown.add_column(name, justify="right" if number else "left")
    for row in table.rows:
        shown.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell or "-") for cell in row))
    return shown
