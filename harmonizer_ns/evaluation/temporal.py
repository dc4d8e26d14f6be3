# SPDX-License-Identifier: Apache-2.0
"""Does enhanced video flicker? The path of held-out photos is flown with and without the enhancer's own history.

Between two photos in capture order there are interpolated views. The warp error compares each frame with its successor
through the exact flow of the rendered geometry; PSNR is taken where the path passes a held-out photo.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import pairwise

from jaxtyping import Float
from rich.table import Table
from torch import Tensor

from harmonizer_ns.captures.capture import Capture, load_capture
from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.enhancers.stream import EnhancerStream
from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation.protocol import EvaluationConfig
from harmonizer_ns.evaluation.report import wide_console
from harmonizer_ns.files import write_json
from harmonizer_ns.flow import depth_flow, warp_by_flow
from harmonizer_ns.metrics import psnr
from harmonizer_ns.poses import interpolate_pose
from harmonizer_ns.splats.held_out import SparseFit, select_references
from harmonizer_ns.types import Cameras, Frames


@dataclass(frozen=True)
class TemporalResult:
    """Means over a trajectory; errors are root mean square differences of colours in [0, 1].

    Args:
        scene: name.
        frames: how many.
        warp_render: warp error of the plain video.
        warp_enhanced: warp error of the enhanced video.
        warp_single: warp error when each frame is enhanced by itself.
        psnr_render: of the plain frames at held-out photos, in dB.
        psnr_enhanced: of the enhanced ones.
    """

    scene: str
    frames: int
    warp_render: float
    warp_enhanced: float
    warp_single: float
    psnr_render: float
    psnr_enhanced: float


def evaluate(config: EvaluationConfig, enhancer: Enhancer, device: str) -> None:
    """Fly through all scenes, print the table, and write what was asked for."""
    table = Table(title=f"{config.enhancer}: warp error x 1000 (lower is steadier), PSNR in dB")
    for name in ("scene", "frames", "warp render", "warp enhanced", "no history", "PSNR render", "PSNR enhanced"):
        table.add_column(name, justify="left" if name == "scene" else "right")
    console, results = wide_console(), []
    for folder in config.scenes:
        capture = load_capture(folder, config.width).to(device)
        with console.status(f"{capture.name}: fitting and flying"):
            results.append(result := evaluate_scene(capture, enhancer, config))
        errors = (result.warp_render, result.warp_enhanced, result.warp_single)
        cells = [f"{1000 * value:.2f}" for value in errors]
        cells += [f"{value:.2f}" for value in (result.psnr_render, result.psnr_enhanced)]
        table.add_row(result.scene, str(result.frames), *cells)
    console.print(table)
    if config.output:
        content = {"protocol": config.settings(), "scenes": [asdict(result) for result in results]}
        write_json(config.output / "temporal.json", content, indent=2)


def evaluate_scene(capture: Capture, enhancer: Enhancer, config: EvaluationConfig) -> TemporalResult:
    """Fit, fly, enhance with and without history, and measure.

    Raises:
        InputError: when fewer than two photos are held out.
    """
    fit = config.fit(capture)
    passed = fit.capture.test[: config.views]
    renders = [fit.renderer.render(camera) for camera in trajectory(capture, passed, config.between)]
    enhanced, single = (enhance_video(fit, renders, enhancer, history) for history in (True, False))
    stops = range(0, len(renders), config.between + 1)
    targets = [capture.frames(i).rgb for i in passed]
    plain = [frame.rgb for frame in renders]
    return TemporalResult(
        scene=capture.name,
        frames=len(renders),
        warp_render=warp_error(renders, plain),
        warp_enhanced=warp_error(renders, enhanced),
        warp_single=warp_error(renders, single),
        psnr_render=_mean([psnr(plain[i], target).item() for i, target in zip(stops, targets, strict=True)]),
        psnr_enhanced=_mean([psnr(enhanced[i], target).item() for i, target in zip(stops, targets, strict=True)]),
    )


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


def warp_error(geometry: list[Frames], video: list[Float[Tensor, "1 3 h w"]]) -> float:
    """Root mean square difference of each frame and its predecessor, looked up by exact flow, over valid pixels.

    ``sqrt(mean_t sum_p m (V_t(p) - V_{t-1}(p + f_t(p)))^2 / sum_p m)``; pairs without valid pixels or of different
    sizes do not count.
    """
    errors = []
    for now, before, image, earlier in zip(geometry[1:], geometry, video[1:], video, strict=False):
        if now.rgb.shape != before.rgb.shape:
            continue
        flow = depth_flow(now.depth, now.cameras, before.depth, before.cameras)
        squared = (image - warp_by_flow(earlier, flow.offset)).square().mean(1, keepdim=True)
        if flow.valid.any():
            errors.append(squared[flow.valid].mean().item())
    return _mean(errors) ** 0.5


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)
