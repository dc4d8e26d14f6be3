# SPDX-License-Identifier: Apache-2.0
"""How near are pictures to the truth, and does an enhancer help? All views are measured, and a verdict is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.evaluation import page, report
from harmonizer_ns.evaluation.networks import Networks
from harmonizer_ns.evaluation.pictures import Scene
from harmonizer_ns.evaluation.quality import scores_of
from harmonizer_ns.evaluation.report import SceneResult, ViewResult, average, scene_result
from harmonizer_ns.evaluation.sets import PictureSets
from harmonizer_ns.evaluation.settings import EvaluationConfig
from harmonizer_ns.evaluation.video import Clips
from harmonizer_ns.images import beside, save_image
from harmonizer_ns.views import ENHANCED, PLAIN, JudgedView


def evaluate(config: EvaluationConfig, scenes: Iterable[tuple[Scene, Enhancer | None]], networks: Networks) -> None:
    """Measure all scenes, print the table and the verdict, and write what was asked for.

    Args:
        config: says where to write.
        scenes: each with its enhancer; made ready when it is asked for.
        networks: those that measure.
    """
    console, sets, results = report.wide_console(), PictureSets(networks), []
    for scene, enhancer in scenes:
        folder = page.scene_folder(config.output, scene.name)
        with console.status(f"{scene.name}: rendering, enhancing, measuring"):
            results.append(measure_scene(scene, enhancer, networks, sets, folder))
    mean = _with_sets(average(results), sets)
    console.print(report.table(results, report.told(results), mean))
    verdict = report.judge(results)
    if verdict is not None:
        console.print(report.sentence(verdict), soft_wrap=True)
    print_missing(console, networks)
    if config.output:
        if networks.inception() is not None:
            networks.recipes["inception"] = sets.recipe()
        told = [report.sentence(verdict)] if verdict else []
        found = page.report_of("Evaluation of", results, mean, config, networks, told)
        data = report.content(results, config.settings(), mean)
        console.print(f"Report: {page.write(config.output, replace(found, data=data))}", highlight=False)


def measure_scene(
    scene: Scene, enhancer: Enhancer | None, networks: Networks, sets: PictureSets, folder: Path | None = None
) -> SceneResult:
    """Measure every view of a scene, and its clips as videos.

    Args:
        scene: gives the views.
        enhancer: repairs them; None judges them as they are.
        networks: those that measure.
        sets: what FID and KID are made of.
        folder: where pictures go; None writes none.
    """
    views, clips = [], Clips(networks)
    for view in scene.views(enhancer):
        views.append(ViewResult(view.name, view.shows, scores_of(view, networks), view.seconds))
        for role, picture in view.all_pictures.items():
            sets.add(role, picture)
        clips.add(view)
        if folder is not None:
            write_images(folder, view)
    return replace(scene_result(scene.name, views, clips.scores()), positions=scene.positions, how=scene.how)


def write_images(folder: Path, view: JudgedView) -> None:
    """Write ``<view>.png``, all pictures side by side (render, enhanced, photo), and each in a folder of its role."""
    save_image(folder / f"{view.name}.png", beside(list(view.all_pictures.values())))
    for role, picture in view.all_pictures.items():
        save_image(page.picture_file(folder, role, view.name), picture)


def print_missing(console: Console, networks: Networks) -> None:
    """Say which measures were not taken, and why."""
    table = page.missing_table(networks.missing)
    for name, why in table.rows if table else ():
        console.print(f"{name} {why}", style="dim", highlight=False, soft_wrap=True)


def _with_sets(mean: SceneResult, sets: PictureSets) -> SceneResult:
    """Add what compares all pictures of a role with all truths."""
    roles = [role for role in (PLAIN, ENHANCED) if role in mean.scores]
    scores = {role: {**mean.scores[role], **sets.distances(role)} for role in roles}
    return replace(mean, scores={**mean.scores, **scores})
