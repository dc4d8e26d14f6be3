# SPDX-License-Identifier: Apache-2.0
"""Does an enhancer help? ``python -m harmonizer_ns.evaluation.enhancer --scenes DIR... --enhancer builtin``.

For each capture: fit a splat to every n-th photo, render the others, enhance those renders with the nearest fitted
photos as references, and compare render and enhanced image with the photo.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from harmonizer_ns.captures.pinhole import Capture, load_capture
from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.evaluation import report
from harmonizer_ns.evaluation.protocol import Comparison, Distance, compare, summarize
from harmonizer_ns.evaluation.report import SceneResult
from harmonizer_ns.metrics import load_lpips_squeeze
from harmonizer_ns.splats.fit import SplatConfig, SplatReconstructor
from harmonizer_ns.splats.held_out import every_nth, fit_sparse
from harmonizer_ns.spread import evenly_spread


@dataclass(frozen=True)
class EvaluationConfig:
    """Measure an enhancer on held-out views of sparse splats."""

    scenes: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR...")]
    """Capture folders (transforms.json, images, seed points)."""
    enhancer: str = "builtin"
    """Name of an enhancer, or folder of a checkpoint."""
    width: int | None = 240
    """Width of photos and renders in pixels."""
    every: int = 4
    """Every n-th photo is fitted."""
    views: int = 16
    """Held-out views compared per scene, evenly spread."""
    steps: int = 700
    """Optimisation steps of the splat."""
    seed: int = 0
    """Seed of the splat."""
    output: Path | None = None
    """Folder for report.json and side-by-side images (render, enhanced, photo); None writes nothing."""
    lpips: tuple[Path, Path] | None = None
    """Weights of LPIPS-squeeze: torchvision's squeezenet1_1 state dict and the linear heads."""
    device: str = "cpu"
    """Where to fit and enhance."""
    threads: int = 1
    """Torch threads."""
    splat: SplatConfig = field(default_factory=SplatConfig)
    """The fitter; its steps and seed come from above."""


def main(config: EvaluationConfig) -> None:
    """Evaluate, print the table and the verdict, write what was asked for."""
    from rich.console import Console

    from harmonizer_ns.enhancers.specs import load_enhancer

    torch.set_num_threads(config.threads)
    enhancer = load_enhancer(config.enhancer, config.device)
    distance = load_lpips_squeeze(*config.lpips) if config.lpips else None
    console = Console()
    console.width = max(console.width, 110)  # a log file's 80 columns would break every cell in two
    results = []
    for folder in config.scenes:
        capture = load_capture(folder, config.width)
        with console.status(f"{capture.name}: fitting and enhancing"):
            results.append(evaluate_scene(capture, enhancer, config, distance))
    console.print(report.table(results, f"{config.enhancer}, every {config.every}th photo, {config.steps} steps"))
    console.print(report.sentence(report.judge(results)))
    if config.output:
        report.write_json(config.output / "report.json", results, _protocol(config))


def evaluate_scene(
    capture: Capture, enhancer: Enhancer, config: EvaluationConfig, distance: Distance | None = None
) -> SceneResult:
    """Fit a sparse splat, enhance its held-out renders and average the metrics."""
    capture = capture.to(config.device)
    fit = fit_sparse(capture, every_nth(len(capture), config.every), SplatReconstructor(_splat(config)))
    comparisons = list(compare(fit, enhancer, evenly_spread(fit.split.held_out, config.views)))
    if config.output:
        write_images(config.output / capture.name, comparisons)
    return summarize(capture.name, comparisons, distance)


def write_images(folder: Path, comparisons: list[Comparison]) -> None:
    """Write ``<view>.png``: render, enhanced and photo side by side."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for item in comparisons:
        strip = torch.cat([item.render.rgb, item.enhanced, item.target], dim=-1)[0]
        pixels = (strip.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        Image.fromarray(pixels).save(folder / f"{item.view:04d}.png")


def _splat(config: EvaluationConfig) -> SplatConfig:
    return replace(config.splat, steps=config.steps, seed=config.seed)


def _protocol(config: EvaluationConfig) -> dict[str, Any]:
    """The settings as JSON can hold them."""
    settings = asdict(replace(config, splat=_splat(config)))
    settings["scenes"] = [str(folder) for folder in config.scenes]
    settings["output"] = str(config.output)
    settings["lpips"] = [str(path) for path in config.lpips] if config.lpips else None
    return settings


if __name__ == "__main__":
    main(tyro.cli(EvaluationConfig))
