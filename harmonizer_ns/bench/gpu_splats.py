# SPDX-License-Identifier: Apache-2.0
"""Splats on a GPU: gsplat's kernels against the CPU's, their speed, training with repairs, and a viewer's frames."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsplat_trainer.config import DefaultConfig
from gsplat_trainer.trainer import Trainer
from harmonizer_ns.bench.parts import GPU, Part, Scale, timed
from harmonizer_ns.bench.raster import DEGREE, random_scene
from harmonizer_ns.bench.timing import wait
from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.devices import on_device
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.images import to_pixels, to_uint8
from harmonizer_ns.raster import gsplat_kernels
from harmonizer_ns.raster.api import rasterization
from harmonizer_ns.splats.model import Splats
from harmonizer_ns.splats.rendering import SplatRenderer
from harmonizer_ns.types import Cameras
from harmonizer_ns.viewing.gui import ViewSettings
from harmonizer_ns.viewing.picture import compose
from harmonizer_ns.viewing.session import ViewSession

PARITY: dict[str, dict[str, Any]] = {
    "classic": {},
    "packed": {"packed": True},
    "antialiased": {"rasterize_mode": "antialiased"},
    "absgrad": {"absgrad": True},
}
_PARITY_GAUSSIANS, _PARITY_SIZE = 3000, (240, 135)
_PHOTOS, _HELD_OUT = 12, 2
_STEP = 3001
"""Of training: no density control, no checkpoint."""


def parity(scale: Scale, _: Path) -> Iterator[Part]:
    """What gsplat's CUDA kernels give, against the CPU's."""
    yield Part("kernels ready, s", 0, _load_kernels)
    for name, options in PARITY.items():
        yield Part(name, 5, partial(_disagreement, min(_PARITY_GAUSSIANS, scale.gaussians), options))


def _load_kernels() -> float:
    start = time.monotonic()
    gsplat_kernels.load_gsplat_kernels()
    return round(time.monotonic() - start, 1)


def _disagreement(count: int, options: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of every output and gradient: the difference's RMS over the CPU's, and its largest over the CPU's largest."""
    ours, theirs = (_drawn(count, torch.device(device), options) for device in ("cpu", "cuda"))
    found = {}
    for name, expected in ours.items():
        difference = theirs[name].cpu() - expected
        ratios = {"rms": difference.norm() / expected.norm(), "largest": difference.abs().max() / expected.abs().max()}
        found[name] = {kind: float(f"{ratio.item():.2g}") for kind, ratio in ratios.items()}
    return found


def _drawn(count: int, device: torch.device, options: dict[str, Any]) -> dict[str, Tensor]:
    """Image, depth, opacity and all gradients of a random scene."""
    scene = random_scene(count, *_PARITY_SIZE)
    parameters = {name: value.detach().to(device).requires_grad_() for name, value in scene.parameters.items()}
    options = {"sh_degree": DEGREE, "render_mode": "RGB+ED", "packed": False, **options}
    image, alpha, meta = rasterization(**parameters, **on_device(scene.camera, device), **options)
    means2d = meta["means2d"]
    means2d.retain_grad()
    weight = torch.linspace(0.5, 1, image.numel()).view_as(image).to(device)
    (image * weight).sum().backward()
    drawn = {"image": image[..., :3].detach(), "depth": image[..., 3:].detach(), "alpha": alpha.detach()}
    drawn |= {f"gradient of {name}": value.grad for name, value in parameters.items()}
    if not options["packed"]:  # whose rows may stand in any order
        drawn["gradient of means2d"] = means2d.grad
    if options.get("absgrad"):
        drawn["absgrad"] = means2d.absgrad
    return drawn


def raster(scale: Scale, _: Path) -> Iterator[Part]:
    """How fast a large scene is drawn, and learns."""
    scene = random_scene(scale.gaussians, *scale.large)
    parameters = {name: value.detach().to(GPU).requires_grad_() for name, value in scene.parameters.items()}
    draw = partial(rasterization, **parameters, **on_device(scene.camera, GPU), sh_degree=DEGREE)

    @torch.no_grad()
    def forward(packed: bool) -> None:
        draw(render_mode="RGB+ED", packed=packed)

    def both(packed: bool) -> None:
        draw(packed=packed)[0].sum().backward()
        for value in parameters.values():
            value.grad = None

    for packed in (False, True):
        name = "packed" if packed else "not packed"
        yield Part(f"{name}, forward with depth", 3, partial(timed, partial(forward, packed), scale))
        yield Part(f"{name}, forward and backward", 5, partial(timed, partial(both, packed), scale))


def random_splats(scale: Scale) -> tuple[Splats, list[Cameras]]:
    """A scene on the GPU, and cameras that stand side by side before it."""
    scene = random_scene(scale.gaussians, *scale.large)
    p = {name: value.detach().to(GPU) for name, value in scene.parameters.items()}
    splats = {"means": p["means"], "scales": p["scales"].log(), "quats": p["quats"]}
    splats |= {"opacities": p["opacities"].logit(), "sh0": p["colors"][:, :1], "shN": p["colors"][:, 1:]}
    poses = torch.eye(4).repeat(_PHOTOS, 1, 1)
    poses[:, 0, 3] = torch.linspace(-0.3, 0.3, _PHOTOS)
    return splats, [Cameras(pose[None], scene.camera["Ks"], *scale.large) for pose in poses]


def training(scale: Scale, _: Path) -> Iterator[Part]:
    """A step that learns from a photo, a round of repairs, and a step that learns from a pseudo-view too."""
    splats, cameras = random_splats(scale)
    photos = [to_uint8(frame.rgb[0]).cpu() for frame in map(SplatRenderer(splats).render, cameras)]
    points = splats["means"][:: max(1, scale.gaussians // 50_000)].cpu()
    split = tuple(range(_PHOTOS - _HELD_OUT)), tuple(range(_PHOTOS - _HELD_OUT, _PHOTOS))
    names = tuple(map(str, range(_PHOTOS)))
    scene = Capture("bench", names, cameras, points, points.sigmoid(), lambda i: (photos[i], None), *split)
    with tempfile.TemporaryDirectory() as folder:
        config = DefaultConfig(
            result_dir=Path(folder), num_targets=scale.targets, fix_start=_STEP, lpips_net="none", depth_weight=0.0
        )
        trainer = Trainer(config, scene, GPU, splats={name: value.clone() for name, value in splats.items()})
        learn = partial(trainer.learn, _STEP)
        trainer.repairs.sampler.pseudo_probability = 0.0
        yield Part("photo step", 3, partial(timed, learn, scale))
        yield Part("round", 20, partial(_round, trainer))
        trainer.repairs.sampler.pseudo_probability = 1.0
        yield Part("step with a pseudo-view", 5, partial(_with_pseudo_view, trainer, scale))
        trainer.outputs.close()


def _round(trainer: Trainer) -> dict[str, float]:
    """The second of two rounds, which compiles nothing."""
    for step in (_STEP, _STEP + trainer.config.steps_per_fix):
        wait(GPU)
        start = time.perf_counter()
        report = trainer.repairs.run(step)
        wait(GPU)
    if report.failure is not None:
        raise RuntimeError(report.failure)
    return {"s": round(time.perf_counter() - start, 3), "views": len(report.views), "used": len(report.used)}


def _with_pseudo_view(trainer: Trainer, scale: Scale) -> dict[str, float]:
    if "pseudo" not in trainer.learn(_STEP):
        raise RuntimeError("there is no pseudo-view to learn from: the round failed, or was left out")
    return timed(partial(trainer.learn, _STEP), scale)


def viewer(scale: Scale, _: Path) -> Iterator[Part]:
    """A frame for somebody who looks: drawn, enhanced with three photos, and brought down as bytes."""
    splats, cameras = random_splats(scale)
    renderer, session, settings = SplatRenderer(splats), ViewSession(load_enhancer), ViewSettings()
    photos = renderer.render(cameras[0])[[0, 0, 0]]
    turns = 0

    def plain() -> Any:
        return to_pixels(renderer.render(cameras[1]).rgb[0])

    def enhanced() -> Any:
        nonlocal turns
        turns += 1
        frame = renderer.render(cameras[turns % _PHOTOS])
        rgb = session.enhance("client", frame, settings, lambda _: photos).rgb
        return to_pixels(compose(frame.rgb, rgb, settings)[0])

    yield Part("plain frame", 2, partial(timed, plain, scale))
    yield Part("enhanced frame", 5, partial(timed, enhanced, scale))
