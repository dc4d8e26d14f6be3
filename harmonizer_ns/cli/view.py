# SPDX-License-Identifier: Apache-2.0
"""``harmonizer view SCENE``: look at a reconstruction in the browser, with the enhancer beside it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from harmonizer_ns.captures.capture import load_capture
from harmonizer_ns.cli.parsing import dtype_option, read_options
from harmonizer_ns.devices import Device, Precision, choose_device
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.errors import InputError, of_extra
from harmonizer_ns.raster.gsplat_kernels import prepare_rasterizer
from harmonizer_ns.references import NUM_REFERENCES, ReferenceSelector
from harmonizer_ns.splats.files import read_splats
from harmonizer_ns.splats.model import Splats
from harmonizer_ns.splats.rendering import SplatRenderer, check_seen
from harmonizer_ns.viewing.framing import overview
from harmonizer_ns.viewing.gui import ViewSettings
from harmonizer_ns.viewing.server import LOCALHOST, SceneViewer, ViewedScene

EXAMPLES = """
harmonizer view outputs/.../config.yml                 # a nerfstudio run; its photos guide the enhancer
harmonizer view ckpt_6999_rank0.pt --data DATA         # splats: also .ply and .spz; --data is optional
"""


@dataclass(frozen=True)
class ViewConfig:
    """Look at a reconstruction in the browser, and switch the enhancer on and off."""

    scene: Annotated[Path, tyro.conf.Positional]
    """A nerfstudio run (config.yml), or splats: .ply, .spz, .pt, .ckpt."""
    more: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """More files of splats, parts of the same scene. The ranks of a gsplat run are found from any of them."""
    data: Path | None = None
    """For splats: their capture, COLMAP's or nerfstudio's; its photos guide the enhancer."""
    ply_transform: str = "none"
    """The frame the splats live in: "none" is the capture's, "gsplat" is gsplat's normalised one, and a
    dataparser_transforms.json (beside config.yml of the run) is nerfstudio's, where ns-export leaves its PLYs."""
    trust: bool = False
    """For a config.yml that names more than the settings of nerfstudio and of installed plugins, which is refused:
    build whatever it names. It can then run any code, as in nerfstudio's own commands."""
    enhancer: str = "builtin"
    """Name of an enhancer, or folder of a checkpoint."""
    enhance: bool = True
    """Begin with the enhancer on."""
    host: str = LOCALHOST
    """Address to listen on. The default is this machine only; 0.0.0.0 lets everybody in your network look."""
    port: int = 8080
    """Where to listen."""
    max_side: int = 960
    """Longest side of a frame at rest, in pixels."""
    device: Device = "auto"
    """Where to render and enhance; auto takes a GPU when there is one."""
    precision: Precision = "auto"
    """Number type of large networks; auto is bf16 on a GPU (fp16 before Ampere) and fp32 elsewhere."""


parse = partial(read_options, ViewConfig, "view", EXAMPLES)


def main(config: ViewConfig) -> None:
    """Serve until interrupted."""
    viewer = serve(config)
    try:
        while True:
            time.sleep(1.0)
    except KeyboardInterrupt:
        viewer.close()


def serve(config: ViewConfig) -> SceneViewer:
    """Open the scene and start the server.

    Raises:
        InputError: on an unknown enhancer, and a scene or capture that cannot be opened.
    """
    dtype_option(config.enhancer, config.precision)
    device = choose_device(config.device)
    return SceneViewer(
        open_scene(config, device),
        lambda name: load_enhancer(name, device, **dtype_option(name, config.precision)),
        settings=ViewSettings(enabled=config.enhance, enhancer=config.enhancer),
        host=config.host,
        port=config.port,
        max_side=config.max_side,
    )


def open_scene(config: ViewConfig, device: str) -> ViewedScene:
    """Open the file by its suffix.

    Raises:
        InputError: when it cannot be opened.
    """
    if config.scene.suffix in (".yml", ".yaml"):
        with of_extra("nerfstudio", f"{config.scene} is a run of nerfstudio: opening it"):
            from harmonizer_ns.plugin.opening import open_run

        if config.data is not None:
            raise InputError("--data is for splats: a nerfstudio run knows its own photos")
        if config.more:
            raise InputError(f"several files are for splats, {config.scene} is a nerfstudio run")
        return open_run(config.scene, device, trust=config.trust)
    return _open_splats(config, device)


def _open_splats(config: ViewConfig, device: str) -> ViewedScene:
    prepare_rasterizer(device)
    if config.data is None:
        splats = _on(device, read_splats(config.scene, *config.more))
        renderer = SplatRenderer(splats)
        return ViewedScene(renderer, overview(splats, renderer))
    capture = load_capture(config.data).in_frame(config.ply_transform)
    splats = _on(device, read_splats(config.scene, *config.more, origin=capture.origin))
    check_seen(splats, capture.cameras)
    renderer, selector = SplatRenderer(splats), ReferenceSelector(capture, NUM_REFERENCES)
    return ViewedScene(
        renderer,
        capture.cameras[0],
        lambda view: selector.select(view, renderer),
        capture.cameras,
        (capture.points, capture.colors) if len(capture.points) else None,
    )


def _on(device: str, splats: Splats) -> Splats:
    return {name: value.to(device) for name, value in splats.items()}
