# SPDX-License-Identifier: Apache-2.0
"""One training step on a pseudo-view, for splats (whole images) and for NeRFs (rays)."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.models.base_model import Model
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor

from harmonizer_ns.plugin.cameras import to_nerfstudio
from harmonizer_ns.types import PseudoView

Losses = tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]
"""Model outputs, loss dictionary, metrics dictionary, as nerfstudio's pipelines return them."""


def pseudo_view_loss(model: Model, view: PseudoView, rays: int, camera_index: int) -> tuple[Tensor, Tensor]:
    """The model's own image loss on a pseudo-view, each pixel counting by its weight, and the PSNR against it.

    A splat's densification statistics come from the last render before the backward pass: render a photo afterwards.

    Args:
        model: in training mode.
        view: on any device.
        rays: rays drawn from the view, for models that train on rays.
        camera_index: a training camera; per-camera tables of ray-based models are read there.
    """
    if isinstance(model, SplatfactoModel):
        outputs, batch = _whole_image(model, view)
        name, scale = "main_loss", 1.0
    else:
        outputs, batch, scale = _drawn_rays(model, view, rays, camera_index)
        name = "rgb_loss"
    metrics = model.get_metrics_dict(outputs, batch)
    return scale * model.get_loss_dict(outputs, batch, metrics)[name], metrics["psnr"]


def _whole_image(model: SplatfactoModel, view: PseudoView) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Splatfacto multiplies render and image by the batch's mask before its loss; the weight is such a mask."""
    outputs = model(to_nerfstudio(view.camera.to(model.device))[0:1])
    batch = {"image": view.rgb.permute(1, 2, 0), "mask": view.weight.permute(1, 2, 0)}
    return outputs, {name: image.to(model.device) for name, image in batch.items()}


def _drawn_rays(
    model: Model, view: PseudoView, rays: int, camera_index: int
) -> tuple[dict[str, Any], dict[str, Tensor], float]:
    """Rays drawn in proportion to their pixel's weight w: the loss times mean(w) is then the weighted loss.

    ``E_{p ~ w}[l(p)] * mean(w) = mean(w l)`` over all pixels.
    """
    weight = view.weight[0]
    chosen = torch.multinomial(weight.reshape(-1), rays, replacement=True)
    rows, columns = chosen // weight.shape[1], chosen % weight.shape[1]
    bundle = _ray_bundle(model, view, rows, columns, camera_index)
    image = view.rgb[:, rows, columns].T.to(model.device)
    return model(bundle), {"image": image}, float(weight.mean())


def _ray_bundle(model: Model, view: PseudoView, rows: Tensor, columns: Tensor, camera_index: int) -> RayBundle:
    camera = to_nerfstudio(view.camera).to(model.device)
    pixels = torch.stack([rows, columns], dim=-1).to(model.device) + 0.5
    bundle = camera.generate_rays(camera_indices=torch.zeros_like(rows)[:, None].to(model.device), coords=pixels)
    bundle.camera_indices = torch.full((len(rows), 1), camera_index, device=model.device)
    return bundle
