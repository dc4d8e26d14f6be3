# SPDX-License-Identifier: Apache-2.0
"""What ``harmonizer evaluate`` is given: runs of both trainers, captures, and pairs are told apart and opened here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from harmonizer_ns.captures.capture import load_capture, pose_files
from harmonizer_ns.cli.parsing import dtype_option
from harmonizer_ns.distill.settings import GSPLAT_TRAINER, NS_TRAIN
from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.enhancers.digest import weights_digest
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.errors import InputError, of_extra
from harmonizer_ns.evaluation.networks import Networks
from harmonizer_ns.evaluation.pictures import PairScene, Scene, as_video, holds_pictures, pair_scenes, two_folders
from harmonizer_ns.evaluation.rendered import FittedScene
from harmonizer_ns.evaluation.settings import VIEWS, EvaluationConfig


class Source(NamedTuple):
    """One scene to be judged.

    Args:
        open: makes it ready, which may take a while; gives the name of its enhancer besides, None for none.
        is_pairs: whether its pictures exist already.
    """

    open: Callable[[], tuple[Scene, str | None]]
    is_pairs: bool = False


def find_sources(config: EvaluationConfig, device: str) -> list[Source]:
    """Tell what every path holds; pairs are read, the rest is opened when it is its turn.

    Raises:
        InputError: naming a path that holds nothing to judge, or pairs that cannot be compared.
    """
    paths = config.scenes
    if len(paths) == 2 and all(holds_pictures(path) and not pose_files(path) for path in paths):
        return [_pairs(scene, config) for scene in two_folders(*paths, device)]
    return [source for path in paths for source in _sources_of(path, config, device)]


def _sources_of(path: Path, config: EvaluationConfig, device: str) -> list[Source]:
    if path.name == GSPLAT_TRAINER or (path / GSPLAT_TRAINER).is_file():
        folder = path.parent if path.is_file() else path
        return [Source(lambda: _gsplat_run(folder, config, device))]
    if path.suffix in (".yml", ".yaml") or (path / NS_TRAIN).is_file():
        file = path / NS_TRAIN if path.is_dir() else path
        return [Source(lambda: _nerfstudio_run(file, config, device))]
    if not path.exists():
        raise InputError(f"there is no {path}")
    if (pairs := pair_scenes(path, device, config.allow_outside)) is not None:
        return [_pairs(scene, config) for scene in pairs]
    if not path.is_dir() or not pose_files(path):
        raise InputError(
            f"{path} holds nothing to measure: it is no run (config.yml of ns-train, cfg.yml of gsplat-trainer), no "
            "capture (transforms.json, or COLMAP's sparse/0), and no pairs (a folder with render/ and gt/, a .json "
            "file, or two folders, pictures and truths)"
        )
    return [Source(lambda: _capture(path, config, device))]


def _pairs(scene: PairScene, config: EvaluationConfig) -> Source:
    return Source(lambda: (as_video(scene) if config.temporal else scene, config.enhancer), is_pairs=True)


def _capture(path: Path, config: EvaluationConfig, device: str) -> tuple[Scene, str | None]:
    capture = load_capture(path, config.width).to(device)
    how = f"every {config.every}th photo, {config.splat.steps} steps"
    return FittedScene(capture.name, config.fit(capture), config.views or VIEWS, how), config.enhancer or "builtin"


def _gsplat_run(folder: Path, config: EvaluationConfig, device: str) -> tuple[Scene, str | None]:
    from gsplat_trainer.opening import open_run

    fit, settings = open_run(folder, device)
    own = None if settings.enhancer == "none" else settings.enhancer
    return FittedScene(f"{fit.capture.name} {folder.resolve().name}", fit, config.views, "run"), config.enhancer or own


def _nerfstudio_run(file: Path, config: EvaluationConfig, device: str) -> tuple[Scene, str | None]:
    with of_extra("nerfstudio", f"{file} is a run of nerfstudio: opening it"):
        from harmonizer_ns.plugin.opening import open_held_out

    fit, own = open_held_out(file, device, trust=config.trust)
    name = f"{fit.capture.name} {file.resolve().parent.name}"
    return FittedScene(name, fit, config.views, "run"), config.enhancer or (None if own == "none" else own)


def opened(
    config: EvaluationConfig, sources: list[Source], device: str, networks: Networks
) -> Iterator[tuple[Scene, Enhancer | None]]:
    """Open scene after scene, each with its enhancer, which is loaded once and noted among the networks' recipes."""

    @cache
    def enhancer(name: str) -> Enhancer:
        networks.recipes[f"enhancer {name}"] = f"sha256 of its weights: {weights_digest(name)}"
        return load_enhancer(name, device, **dtype_option(name, config.precision))

    seen: Counter[str] = Counter()
    for source in sources:
        scene, name = source.open()
        seen[scene.name] += 1
        number = f" {seen[scene.name]}" if seen[scene.name] > 1 else ""
        how = ", ".join(filter(None, (name, scene.how)))
        scene = replace(scene, name=scene.name + number, how=how)
        yield scene, None if name is None else enhancer(name)
