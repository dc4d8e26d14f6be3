# SPDX-License-Identifier: Apache-2.0
"""Fits of captures are looked at from the photos' cameras, to become the photos."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.splats.held_out import SparseFit, named_references
from harmonizer_ns.synthesis.streams.base import Made, NamedPhotos
from harmonizer_ns.types import Cameras, Frames, Renderer, cat_frames


class RememberingRenderer:
    """A remembering renderer renders a camera once: frames of a clip share most of their references.

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


def show_photo(
    fit: SparseFit,
    view: int,
    damaged: Frames,
    parameters: dict[str, Any],
    clip: int,
    mask: Float[Tensor, "1 h w"] | None = None,
    references: int = 3,
) -> Made:
    """Pair a damaged frame with the photo that it should become.

    Args:
        fit: of the capture; its renders tell the depth of the references.
        view: index of the photo in the capture.
        damaged: what is seen from the photo's camera (a batch of one): a render, or the photo with another light.
        parameters: all that was drawn, JSON.
        clip: number of the photo's clip.
        mask: how far each pixel was changed; None where damage is everywhere.
        references: how many photos to look at, at most; never the photo itself.
    """
    found = named_references(fit, fit.capture.cameras[view], references, exclude=view)
    return Made(
        damaged.rgb[0],
        fit.capture.frames(view).rgb[0],
        parameters,
        mask,
        geometry=damaged,
        references=None if found is None else NamedPhotos(tuple(map(_name, found[0])), found[1]),
        clip=clip,
        source=fit.capture.names[view],
    )


def _name(filename: str) -> str:
    """Name a photo by its stem, with its folder where it is one camera of a rig: their stems are often the same."""
    return str(PurePosixPath(filename).with_suffix("")).removeprefix("images/")
