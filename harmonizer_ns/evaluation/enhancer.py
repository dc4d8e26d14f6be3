# SPDX-License-Identifier: Apache-2.0
"""Does an enhancer help? Every scene's held-out views are enhanced and compared, and a verdict is given."""

from __future__ import annotations

from pathlib import Path

from harmonizer_ns.captures.capture import Capture, load_capture
from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.evaluation import report
from harmonizer_ns.evaluation.protocol import Comparison, EvaluationConfig, compare, summarize
from harmonizer_ns.evaluation.report import SceneResult
from harmonizer_ns.features import Distance, lpips_distance
from harmonizer_ns.images import beside, save_image
from harmonizer_ns.spread import evenly_spread


def evaluate(config: EvaluationConfig, enhancer: Enhancer, device: str) -> None:
    """Evaluate all scenes, print the table and the verdict, and write what was asked for."""
    distance = lpips_distance("squeeze", *config.lpips) if config.lpips else None
    console = report.wide_console()
    results = []
    for folder in config.scenes:
        capture = load_capture(folder, config.width).to(device)
        with console.status(f"{capture.name}: fitting and enhancing"):
            results.append(evaluate_scene(capture, enhancer, config, distance))
    console.print(report.table(results, f"{config.enhancer}, every {config.every}th photo, {config.splat.steps} steps"))
    console.print(report.sentence(report.judge(results)))
    if config.output:
        report.write_report(config.output / "report.json", results, config.settings())


def evaluate_scene(
    capture: Capture, enhancer: Enhancer, config: EvaluationConfig, distance: Distance | None = None
) -> SceneResult:
    """Fit a sparse splat, enhance its held-out renders and average the metrics."""
    fit = config.fit(capture)
    comparisons = list(compare(fit, enhancer, evenly_spread(fit.capture.test, config.views)))
    if config.output:
        write_images(config.output / capture.name, comparisons)
    return summarize(capture.name, comparisons, distance)


def write_images(folder: Path, comparisons: list[Comparison]) -> None:
    """Write ``<view>.png``: render, enhanced and photo side by side."""
    for item in comparisons:
        strip = beside([item.render.rgb[0], item.enhanced[0], item.target[0]])
        save_image(folder / f"{item.view:04d}.png", strip)
