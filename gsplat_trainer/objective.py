# SPDX-License-Identifier: Apache-2.0
"""A training step minimises losses on photos, on a pseudo-view now and then, and regularisation.

Poses and colours of the photos may be corrected meanwhile: a small rigid motion and an affine transform for each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from gsplat_trainer.config import Config
from gsplat_trainer.photos import PhotosAhead
from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.devices import sent
from harmonizer_ns.distill.correction import correction_target
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import to_float
from harmonizer_ns.metrics import splat_loss
from harmonizer_ns.splats.rendering import Rasterized, RasterOptions, rasterize
from harmonizer_ns.splats.thinning import mean_opacity, opacity_weight
from harmonizer_ns.stereo.teacher import DepthTeacher, disparity
from harmonizer_ns.types import Cameras, PseudoView, cat_cameras
from harmonizer_ns.warp import in_frustum, project

Losses = dict[str, Tensor]


@dataclass
class Extra:
    """A learned correction, the same on all ranks, and its optimizer."""

    module: torch.nn.Module
    optimizer: torch.optim.Optimizer

    @property
    def gradients(self) -> list[Tensor]:
        """What the last backward pass has found."""
        return [value.grad for value in self.module.parameters() if value.grad is not None]


def make_extras(config: Config, photos: int, device: torch.device) -> dict[str, Extra]:
    """The corrections that the settings ask for, by name."""
    chosen = {
        "pose": (config.pose_opt, PoseCorrections, config.pose_opt_lr, config.pose_opt_reg),
        "app": (config.app_opt, ColorTransforms, config.app_opt_lr, config.app_opt_reg),
    }
    extras = {}
    for name, (wanted, kind, rate, decay) in chosen.items():
        if wanted and photos:
            module = kind(photos).to(device)
            rate *= math.sqrt(config.batch_size)
            extras[name] = Extra(module, torch.optim.Adam(module.parameters(), lr=rate, weight_decay=decay))
    return extras


@dataclass(frozen=True)
class Objective:
    """The losses that splats are trained with.

    Args:
        config: of the run.
        scene: the photos.
        options: how splats are drawn.
        extras: corrections of the photos' poses and colours.
        device: of the splats.
        teacher: knows the photos' depth; None teaches none.
        source: of the photos, on the device.
    """

    config: Config
    scene: Capture
    options: RasterOptions
    extras: dict[str, Extra]
    device: torch.device
    teacher: DepthTeacher | None
    source: PhotosAhead

    def photos(self, splats: Any, degree: int, positions: list[int], step: int) -> tuple[Rasterized, Losses]:
        """What was drawn, and its losses on photos given by their positions among the training photos."""
        indices = [self.scene.train[i] for i in positions]
        photos = sent(torch.tensor(positions), self.device)
        cameras = cat_cameras([self.scene.cameras[i] for i in indices]).to(self.device)
        if "pose" in self.extras:
            cameras = self.extras["pose"].module(cameras, photos)
        drawn = rasterize(splats, cameras, degree, self.options, with_depth=self._learns_depth)
        rgb = self._over_background(drawn)
        if "app" in self.extras:
            rgb = self.extras["app"].module(rgb, photos)
        shown, masks = zip(*(self.source[i] for i in indices), strict=True)
        target = torch.stack([to_float(photo) for photo in shown])
        losses = {"photo": image_loss(rgb, target, _weights(masks, target), self.config.ssim_lambda)}
        if drawn.depth is not None:
            terms = [self._depth(depth, position, step) for depth, position in zip(drawn.depth, positions, strict=True)]
            losses["depth"] = torch.stack(terms).mean()
        return drawn, losses

    @property
    def _learns_depth(self) -> bool:
        return self.config.depth_loss or self.teacher is not None

    def pseudo_view(self, splats: Any, degree: int, view: PseudoView) -> tuple[Rasterized, Losses]:
        """What was drawn, and its image loss on a pseudo-view, each pixel counting by its weight.

        Photos hold the scene in place; without any, the whole repaired picture does, not only its correction.
        """
        drawn = rasterize(splats, view.camera.to(self.device), degree, self.options)
        rgb = self._over_background(drawn)
        if self.scene.train:
            target, weight = correction_target(rgb[0], view)
        else:
            target, weight = view.rgb.to(self.device), view.weight.to(self.device)
        return drawn, {"pseudo": image_loss(rgb, target[None], weight[None], self.config.ssim_lambda)}

    def regularization(self, splats: Mapping[str, Tensor]) -> Losses:
        """Mean opacity and scale, as in Kheradmand et al. 2024."""
        losses = {}
        weight = opacity_weight(self.config.opacity_reg, len(self.scene.train))
        if weight > 0:
            losses["opacity"] = weight * mean_opacity(splats)
        if self.config.scale_reg > 0:
            losses["scale"] = self.config.scale_reg * torch.exp(splats["scales"]).mean()
        return losses

    def _over_background(self, drawn: Rasterized) -> Tensor:
        if not self.config.random_bkgd:
            return drawn.rgb
        return drawn.rgb + (1 - drawn.alpha) * torch.rand(3, 1, 1, device=self.device)

    def _depth(self, depth: Float[Tensor, "1 h w"], position: int, step: int) -> Float[Tensor, ""]:
        """Compare a photo's render with the photo's own depth and with COLMAP's points, as far as that is asked for."""
        terms = []
        if self.teacher is not None:
            terms.append(self.teacher.on_image(depth, position, step))
        if self.config.depth_loss:
            terms.append(self.config.depth_lambda * self.scene.extent * self._at_points(depth[None], position))
        return torch.stack(terms).sum()

    def _at_points(self, depth: Float[Tensor, "1 1 h w"], position: int) -> Float[Tensor, ""]:
        index = self.scene.train[position]
        if self.scene.seen is None:
            raise InputError("depth_loss needs a COLMAP capture, which knows what points each photo shows")
        points = self.scene.points[self.scene.seen[index]].to(self.device)
        return depth_loss(depth, self.scene.cameras[index].to(self.device), points)


def _weights(masks: Sequence[Tensor | None], target: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"] | None:
    """What photos' pixels count; None where all of them do."""
    if all(mask is None for mask in masks):
        return None
    all_of_one = torch.ones_like(target[0, :1])
    return torch.stack([all_of_one if mask is None else mask.float() for mask in masks])


# --- losses -----------------------------------------------------------------------------------------------------------


def image_loss(
    image: Float[Tensor, "n 3 h w"],
    target: Float[Tensor, "n 3 h w"],
    weight: Float[Tensor, "n 1 h w"] | None,
    ssim_lambda: float,
) -> Float[Tensor, ""]:
    """`splat_loss` of both images multiplied by the weight."""
    if weight is not None:
        image, target = image * weight, target * weight
    return splat_loss(image, target, ssim_lambda)


def depth_loss(depth: Float[Tensor, "1 1 h w"], camera: Cameras, points: Float[Tensor, "p 3"]) -> Float[Tensor, ""]:
    """Mean absolute difference of disparity (1 / depth) at the points that a photo shows; 0 where it shows none."""
    pixels, z = project(points[None], camera)
    inside = in_frustum(camera, points)
    if not inside.any():
        return depth.sum() * 0
    size = pixels.new_tensor([camera.width, camera.height])
    grid = (2 * pixels[inside] / size - 1)[None, None]
    drawn = F.grid_sample(depth, grid, align_corners=False)[0, 0, 0]
    return F.l1_loss(disparity(drawn), 1 / z[inside])


# --- corrections of photos --------------------------------------------------------------------------------------------


class PoseCorrections(torch.nn.Module):
    """Corrects the pose of each photo by a rigid motion in the camera's own axes, which begins at none.

    Args:
        count: number of photos.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.motions = torch.nn.Parameter(torch.zeros(count, 6))

    def forward(self, cameras: Cameras, photos: Int[Tensor, " n"]) -> Cameras:
        """Cameras times ``[exp([w]x) | v]`` with the photo's rotation vector ``w`` and shift ``v``."""
        motion = self.motions[photos]
        axes = torch.eye(3, device=motion.device)[None]
        turn = torch.linalg.cross(motion[:, None, 3:], axes).mT  # [w]x: its columns are w x e
        rotation = torch.linalg.matrix_exp(turn)
        top = torch.cat([rotation, motion[:, :3, None]], dim=2)
        bottom = cameras.camera_to_world[:, 3:]  # (0, 0, 0, 1), where the motions are
        return replace(cameras, camera_to_world=cameras.camera_to_world @ torch.cat([top, bottom], dim=1))


class ColorTransforms(torch.nn.Module):
    """Corrects the colours of each photo by ``A c + b``, beginning at the identity; other views are shown without.

    Args:
        count: number of photos.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.offsets = torch.nn.Parameter(torch.zeros(count, 3, 4))

    def forward(self, rgb: Float[Tensor, "n 3 h w"], photos: Int[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
        """Colours as the photos' exposure and white balance would show them."""
        offset = self.offsets[photos]
        return rgb + torch.einsum("nij,njhw->nihw", offset[..., :3], rgb) + offset[..., 3, None, None]
