# SPDX-License-Identifier: Apache-2.0
"""Fit part of a capture, by the name of a reconstructor, and show photos of it beside their renders."""

from __future__ import annotations

from importlib import import_module
from pathlib import PurePosixPath
from typing import Any

from harmonizer_ns.captures.pinhole import Capture
from harmonizer_ns.errors import InputError
from harmonizer_ns.splats.fit import SplatConfig, SplatReconstructor
from harmonizer_ns.splats.held_out import SparseFit, Split, fit_sparse, named_references
from harmonizer_ns.synthesis.streams.base import Made, References
from harmonizer_ns.types import Cameras, Frames, Reconstructor, Renderer, cat_frames

RECONSTRUCTORS = ("splat", "nerf")
_SEED_POINTS = 4


def build_reconstructor(name: str, steps: int, max_gaussians: int, seed: int) -> Reconstructor:
    """One of `RECONSTRUCTORS`.

    Raises:
        InputError: when its packages are missing.
    """
    if name == "splat":
        return SplatReconstructor(SplatConfig(steps=steps, seed=seed, max_gaussians=max_gaussians))
    # By its module's name, since this package may import neither nerfstudio nor the plugin, and since settings are
    # plain data that travel to worker processes: a factory given by the command line could not.
    try:
        plugin = import_module("harmonizer_ns.plugin.reconstruct")
    except ModuleNotFoundError as error:
        raise InputError(f"the reconstructor nerf needs nerfstudio ({error}): pip install harmonizer-ns") from error
    return plugin.NerfReconstructor(plugin.NerfConfig(steps=steps, seed=seed))


def check_capture(capture: Capture, reconstructor: str) -> None:
    """Check that a capture has what a reconstructor starts from.

    Raises:
        InputError: when it has not.
    """
    if reconstructor == "splat" and len(capture.points) < _SEED_POINTS:
        raise InputError(
            f"{capture.name} has {len(capture.points)} seed points, a splat starts from at least {_SEED_POINTS}: "
            "name a PLY as ply_file_path in transforms.json, or set reconstructor: nerf"
        )


def fit_capture(capture: Capture, split: Split, reconstructor: Reconstructor) -> SparseFit:
    """Fit the split's photos; the renderer remembers what it has rendered."""
    return remembering(fit_sparse(capture, split, reconstructor))


def remembering(fit: SparseFit) -> SparseFit:
    """The same fit, which renders a camera once: frames of a clip share most of their references."""
    return SparseFit(fit.capture, fit.split, Remembering(fit.renderer))


class Remembering:
    """A renderer that renders a camera once.

    Args:
        renderer: of a finished reconstruction.
    """

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._known: dict[tuple[Any, ...], Frames] = {}

    def render(self, cameras: Cameras) -> Frames:
        """Render every camera that is new."""
        return cat_frames([self._render_one(camera) for camera in cameras])

    def _render_one(self, camera: Cameras) -> Frames:
        place = (*camera.camera_to_world.flatten().tolist(), *camera.intrinsics.flatten().tolist())
        key = (*place, camera.width, camera.height)
        if key not in self._known:
            self._known[key] = self._renderer.render(camera)
        return self._known[key]


def show_photo(fit: SparseFit, view: int, references: int, clip: int, parameters: dict[str, Any]) -> Made:
    """The render at a photo's camera, to become the photo."""
    photo = fit.capture.photos[view]
    render = fit.renderer.render(photo.cameras)
    return Made(
        render.rgb[0],
        photo.rgb[0],
        parameters,
        geometry=render,
        references=references_of(fit, view, references),
        clip=clip,
        source=fit.capture.filenames[view],
    )


def references_of(fit: SparseFit, view: int, count: int = 3) -> References | None:
    """The fitted photos that show most of what a photo shows, itself left out, with rendered depth."""
    found = named_references(fit, fit.capture.photos[view].cameras, count, exclude=(view,))
    return None if found is None else References(tuple(map(_name, found[0])), found[1])


def _name(filename: str) -> str:
    """The photo's stem, with its folder where it is one camera of a rig: their stems are often the same."""
    return str(PurePosixPath(filename).with_suffix("")).removeprefix("images/")
