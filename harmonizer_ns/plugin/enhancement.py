# SPDX-License-Identifier: Apache-2.0
"""The second image of every render: the enhancer applied to a model's outputs, with real photos as references."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.models.base_model import Model
from torch import Tensor

from harmonizer_ns.references import ReferenceSelector
from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.enhancers.stream import HISTORY, EnhancerStream
from harmonizer_ns.plugin.cameras import from_nerfstudio, is_pinhole
from harmonizer_ns.plugin.renderer import ModelRenderer, frames_from_outputs
from harmonizer_ns.types import Cameras, Frames


class ViewEnhancement:
    """Turns a model's outputs for one camera into ``rgb_enhanced``.

    Args:
        model: renders the depth at the references' cameras.
        references: finds the photos.
        enhancer: repairs.
        guard: gives a context in which no other thread trains the model; it is held while the model renders.
        temporal: whether views come in the order of a video, so that the enhancer may see its last outputs.
    """

    def __init__(
        self,
        model: Model,
        references: ReferenceSelector,
        enhancer: Enhancer,
        guard: Callable[[], AbstractContextManager] = nullcontext,
        temporal: bool = False,
    ) -> None:
        self._model, self._references, self._guard = model, references, guard
        self._stream = EnhancerStream(enhancer, HISTORY if temporal else 0)

    @torch.no_grad()
    def __call__(self, camera: NerfstudioCameras, outputs: dict[str, Any]) -> Float[Tensor, "h w 3"]:
        """Repair one render. Photos cannot be warped into distorted views, which are repaired without them."""
        view = from_nerfstudio(camera).to(outputs["rgb"].device)
        frames = frames_from_outputs(self._model, outputs, view)
        photos = self.photos(view) if is_pinhole(camera) else None
        return self._stream.enhance(frames, photos).rgb[0].permute(1, 2, 0)

    def photos(self, view: Cameras) -> Frames | None:
        """The nearest photos with the model's depth, for a pinhole view."""
        with self._guard():
            return self._references.select(view, ModelRenderer(self._model))
