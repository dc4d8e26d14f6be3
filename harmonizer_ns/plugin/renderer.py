# SPDX-License-Identifier: Apache-2.0
"""A nerfstudio model becomes a `Renderer`: cameras in, frames with z-depth out."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.models.base_model import Model
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor

from harmonizer_ns.plugin.cameras import to_nerfstudio
from harmonizer_ns.types import EMPTY_ALPHA, Cameras, Frames, cat_frames
from harmonizer_ns.warp import inverse_intrinsics, pixel_grid


class ModelRenderer:
    """Renders a nerfstudio model without gradients, whatever mode it is in, and leaves the mode as it was.

    Args:
        model: splatfacto, nerfacto or a model with the same outputs.
        min_alpha: depth is 0 where the accumulated opacity is not above this.
    """

    def __init__(self, model: Model, min_alpha: float = EMPTY_ALPHA) -> None:
        self._model, self._min_alpha = model, min_alpha

    @torch.no_grad()
    def render(self, cameras: Cameras) -> Frames:
        """Render every camera at its own size, on the model's device."""
        cameras = cameras.to(self._model.device)
        training = self._model.training
        self._model.eval()
        try:
            return cat_frames([self._render_one(camera) for camera in cameras])
        finally:
            self._model.train(training)

    def _render_one(self, camera: Cameras) -> Frames:
        outputs = self._model.get_outputs_for_camera(to_nerfstudio(camera)[0:1])
        return frames_from_outputs(self._model, outputs, camera, self._min_alpha)


def frames_from_outputs(
    model: Model, outputs: dict[str, Any], camera: Cameras, min_alpha: float = EMPTY_ALPHA
) -> Frames:
    """Model outputs of one camera (``h w c``) as frames."""
    rgb, alpha = _image(outputs["rgb"]), _image(outputs["accumulation"])
    depth = _image(outputs["depth"])
    if not isinstance(model, SplatfactoModel):
        depth = depth / ray_lengths(camera.to(depth.device))
    return Frames.rendered(rgb, alpha, depth, camera.to(rgb.device), min_alpha)


def ray_lengths(camera: Cameras) -> Float[Tensor, "1 1 h w"]:
    """Distance along each pixel's ray for one unit of z-depth: ``|K^-1 [p, 1]|``."""
    pixels = pixel_grid(camera.width, camera.height, camera.intrinsics.device)
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    rays = torch.einsum("ij,hwj->hwi", inverse_intrinsics(camera.intrinsics)[0], homogeneous)
    return rays.norm(dim=-1)[None, None]


def _image(output: Tensor) -> Float[Tensor, "1 c h w"]:
    return output.permute(2, 0, 1)[None].float()
