# SPDX-License-Identifier: Apache-2.0
"""A training step on a pseudo-view takes whole images for splats, and rays for NeRFs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModel
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.distill.correction import correction_target, remaining_correction
from harmonizer_ns.plugin.cameras import to_nerfstudio
from harmonizer_ns.types import PseudoView

Losses = tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]
"""Model outputs, loss dictionary, metrics dictionary, as nerfstudio's pipelines return them."""


def pseudo_view_loss(model: Model, view: PseudoView, rays: int, camera_index: int) -> tuple[Tensor, Tensor]:
    """The model's own losses on what is left to correct in a view, pixels counting by their weight; and its PSNR.

    A splat's densification statistics come from the last render before the backward pass: render a photo afterwards.

    Args:
        model: in training mode.
        view: on the model's device, but for its camera.
        rays: rays drawn from the view, for models that train on rays.
        camera_index: a training camera; per-camera tables of ray-based models are read there.
    """
    if isinstance(model, SplatfactoModel):
        return _on_whole_image(model, view)
    assert isinstance(model, NerfactoModel)
    return _on_drawn_rays(model, view, rays, camera_index)


def _on_whole_image(model: SplatfactoModel, view: PseudoView) -> tuple[Tensor, Tensor]:
    """Splatfacto's loss, ``(1 - l) L1 + l (1 - SSIM)`` of images multiplied by a mask; the weight is such a mask."""
    image = model(to_nerfstudio(view.camera.to(model.device))[0:1])["rgb"].permute(2, 0, 1)
    target, weight = correction_target(image, view)
    image, target = (image * weight)[None], (target * weight)[None]
    share = model.config.ssim_lambda
    loss = (1 - share) * F.l1_loss(image, target) + share * (1 - model.ssim(target, image))
    return loss, model.psnr(image, target)


def _on_drawn_rays(model: NerfactoModel, view: PseudoView, rays: int, camera_index: int) -> tuple[Tensor, Tensor]:
    """Rays drawn in proportion to their pixel's weight w: the loss times mean(w) is then the weighted loss.

    ``E_{p ~ w}[l(p)] * mean(w) = mean(w l)`` over all pixels. A ray's loss is all that nerfacto asks of a photo's ray,
    so that proposal networks learn where to look from new places too.
    """
    weight = view.weight[0]
    chosen = torch.multinomial(weight.reshape(-1), rays, replacement=True)
    rows, columns = chosen // weight.shape[1], chosen % weight.shape[1]
    render, repaired = (image[:, rows, columns] for image in (view.render, view.rgb))
    with _apart_from_photos(model):
        outputs = model(_ray_bundle(model, view, rows, columns, camera_index))
        batch = {"image": remaining_correction(outputs["rgb"].T, render, repaired).T}
        metrics = model.get_metrics_dict(outputs, batch)
        losses = model.get_loss_dict(outputs, batch, metrics)
    return weight.mean() * torch.stack(list(losses.values())).sum(), metrics["psnr"]


@contextmanager
def _apart_from_photos(model: NerfactoModel) -> Iterator[None]:
    """No photo's pose is corrected inside, and the photos' own rays train proposal networks as often as without."""
    poses, sampler = model.camera_optimizer, model.proposal_sampler
    config, waited = poses.config, sampler._steps_since_update
    poses.config = replace(config, mode="off")
    try:
        yield
    finally:
        poses.config, sampler._steps_since_update = config, waited


def _ray_bundle(model: Model, view: PseudoView, rows: Tensor, columns: Tensor, camera_index: int) -> RayBundle:
    camera = to_nerfstudio(view.camera).to(model.device)
    pixels = torch.stack([rows, columns], dim=-1) + 0.5
    bundle = camera.generate_rays(camera_indices=torch.zeros_like(rows)[:, None], coords=pixels)
    bundle.camera_indices = torch.full((len(rows), 1), camera_index, device=model.device)
    return bundle
