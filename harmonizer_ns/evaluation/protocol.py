# SPDX-License-Identifier: Apache-2.0
"""The held-out protocol: enhance renders of views that were not fitted, and compare both with the photos."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.devices import Device, Precision
from harmonizer_ns.enhancers.base import Context, Enhancer
from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation.report import SceneResult
from harmonizer_ns.features import Distance
from harmonizer_ns.metrics import good_half_psnr, psnr, ssim
from harmonizer_ns.splats.fit import SplatConfig, SplatReconstructor
from harmonizer_ns.splats.held_out import SparseFit, fit_sparse, select_references, split_capture
from harmonizer_ns.types import Frames


@dataclass(frozen=True)
class EvaluationConfig:
    """Measure what an enhancer gains.

    For each capture a splat is fitted to every n-th photo; its renders of the other photos' views are enhanced with the
    nearest fitted photos as references, and both are compared with the photos.
    """

    scenes: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA [DATA ...]")]
    """Folders of captures."""
    enhancer: str = "builtin"
    """A name that `harmonizer enhancers` lists, or the folder of a checkpoint."""
    temporal: bool = False
    """Measure flicker instead: fly past held-out photos, every frame enhanced as part of one stream."""
    width: int | None = 240
    """Width of photos and renders in pixels."""
    every: int = 4
    """Every n-th photo is fitted."""
    views: int = 16
    """Held-out photos compared for each scene: evenly spread, or with --temporal the first ones in a row."""
    between: int = 3
    """With --temporal: interpolated frames between two photos."""
    output: Path | None = None
    """Folder for report.json and images side by side (render, enhanced, photo), or with --temporal for temporal.json;
    None writes nothing."""
    lpips: tuple[Path, Path] | None = None
    """Weights of LPIPS-squeeze: torchvision's squeezenet1_1 state dict and the linear heads."""
    device: Device = "auto"
    """Where to fit and enhance; auto takes a GPU when there is one."""
    precision: Precision = "auto"
    """Number type of large networks; auto is bf16 on a GPU and fp32 elsewhere."""
    threads: int = 1
    """Threads of torch on a CPU."""
    splat: Annotated[SplatConfig, tyro.conf.arg(name="")] = field(default_factory=SplatConfig)
    """The fitter."""

    def __post_init__(self) -> None:
        if self.every < 2 or self.views < 1 or self.between < 0:
            raise InputError(
                "--every should be at least 2, so that photos are held out, --views at least 1 and --between at least "
                f"0; got {self.every}, {self.views} and {self.between}"
            )

    def fit(self, capture: Capture) -> SparseFit:
        """A splat of every n-th photo of a capture."""
        split = split_capture(capture, range(0, len(capture), self.every))
        return fit_sparse(split, SplatReconstructor(self.splat))

    def settings(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return json.loads(json.dumps(asdict(self), default=str))


@dataclass(frozen=True)
class Comparison:
    """One held-out view: what was rendered, what the enhancer made of it in how many seconds, and the photo."""

    view: int
    render: Frames
    enhanced: Float[Tensor, "1 3 h w"]
    target: Float[Tensor, "1 3 h w"]
    seconds: float


def compare(fit: SparseFit, enhancer: Enhancer, views: Sequence[int]) -> Iterable[Comparison]:
    """Render and enhance each view with the nearest fitted photos as references."""
    for view in views:
        photo = fit.capture.frames(view)
        render = fit.renderer.render(photo.cameras)
        references = select_references(fit, render.cameras, enhancer.max_references, exclude=view)
        start = time.perf_counter()
        enhanced = enhancer.enhance(render, Context(references=(references,))).rgb
        if enhanced.is_cuda:
            torch.cuda.synchronize(enhanced.device)
        yield Comparison(view, render, enhanced, photo.rgb, time.perf_counter() - start)


def summarize(scene: str, comparisons: list[Comparison], distance: Distance | None = None) -> SceneResult:
    """Average the metrics over the views; the first view, which warms caches up, does not count for the speed."""
    if not comparisons:
        raise InputError(f"{scene} has no held-out views")
    rows = [_measure(comparison, distance) for comparison in comparisons]
    means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    timed = comparisons[1:] or comparisons
    fps = len(timed) / max(sum(comparison.seconds for comparison in timed), 1e-9)
    return SceneResult(scene=scene, views=len(rows), fps=fps, **means)


def _measure(item: Comparison, distance: Distance | None) -> dict[str, float]:
    render, enhanced, target = item.render.rgb, item.enhanced, item.target
    good = good_half_psnr(render, enhanced, target)
    row = {
        "psnr_render": psnr(render, target),
        "psnr_enhanced": psnr(enhanced, target),
        "ssim_render": ssim(render, target),
        "ssim_enhanced": ssim(enhanced, target),
        "good_before": good.before,
        "good_after": good.after,
    }
    if distance is not None:
        row["lpips_render"] = distance(render.cpu(), target.cpu())
        row["lpips_enhanced"] = distance(enhanced.cpu(), target.cpu())
    return {key: value.item() for key, value in row.items()}
