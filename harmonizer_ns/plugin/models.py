# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's splatfacto and nerfacto run on any device here, and offer a second image, ``rgb_enhanced``."""

from __future__ import annotations

import math
from collections import UserDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.base_model import Model
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from nerfstudio.models.splatfacto import RGB2SH, SplatfactoModel, SplatfactoModelConfig, random_quat_tensor
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from harmonizer_ns.errors import first_line
from harmonizer_ns.features import lpips_or_nan
from harmonizer_ns.plugin.cameras import from_nerfstudio, opencv_poses
from harmonizer_ns.plugin.report import say
from harmonizer_ns.raster.gsplat_versions import mend_resets
from harmonizer_ns.splats.model import MIN_POINTS, from_splatfacto, seed_splats, to_splatfacto
from harmonizer_ns.splats.rendering import Rasterized, RasterOptions, rasterize
from harmonizer_ns.splats.thinning import mean_opacity, opacity_weight
from harmonizer_ns.stereo.fusion import Seeds
from harmonizer_ns.stereo.teacher import DepthTeacher

ENHANCED = "rgb_enhanced"
EnhanceView = Callable[[NerfstudioCameras, dict[str, Any]], Tensor]
"""``(camera, outputs) -> rgb`` of shape ``h w 3``."""


@contextmanager
def lpips_on_demand() -> Iterator[None]:
    """Models built inside get `lpips_or_nan`: torchmetrics' LPIPS would download AlexNet with every model."""
    from torchmetrics.image import lpip

    original = lpip.LearnedPerceptualImagePatchSimilarity
    lpip.LearnedPerceptualImagePatchSimilarity = lambda **_: lpips_or_nan("alex", say)
    try:
        yield
    finally:
        lpip.LearnedPerceptualImagePatchSimilarity = original


class EnhancedOutputs(UserDict):
    """A model's outputs plus `ENHANCED`, computed at its first look-up and then kept.

    nerfstudio's evaluation, viewer and renderer all read one dictionary by name. They list the new image like any
    other output, and ``rgb`` stays what the model rendered.
    """

    def __init__(self, outputs: dict[str, Any], enhance: Callable[[dict[str, Any]], Tensor]) -> None:
        super().__init__({**outputs, ENHANCED: None})
        self._enhance = enhance

    def __getitem__(self, key: str) -> Any:
        if key == ENHANCED and self.data[key] is None:
            self.data[key] = self._enhance(self.data)
        return self.data[key]


class EnhancedModel(Model):
    """A model with a second image, made when it is read, and with metrics for both images."""

    enhance_view: EnhanceView | None = None
    """Set by the pipeline; None gives plain outputs."""
    watch: Callable[[dict[str, Any], dict[str, float], dict[str, Tensor]], None] | None = None
    """Set by the pipeline while it measures: told ``(batch, metrics, images)`` of every image."""
    teacher: DepthTeacher | None = None
    """Set by the pipeline: knows the photos' depth; None teaches none."""
    step_skipped: bool = False
    """Set by the trainer when it did not take a step; its gradients may be NaN."""

    def populate_modules(self) -> None:
        """Build the model without asking for LPIPS weights."""
        with lpips_on_demand():
            super().populate_modules()

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: NerfstudioCameras, obb_box: OrientedBox | None = None) -> Any:
        """Render one camera; the result lists ``rgb_enhanced`` last, computed when it is read."""
        outputs = super().get_outputs_for_camera(camera, obb_box)
        enhance_view = self.enhance_view
        if enhance_view is None or not outputs:
            return outputs
        return EnhancedOutputs(outputs, lambda rendered: enhance_view(camera, rendered))

    def get_image_metrics_and_images(
        self, outputs: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The model's own metrics of ``rgb``, and the same ones, named ``*_enhanced``, of ``rgb_enhanced``.

        Every image has them all, as upstream's averages want it; NaN stands for what could not be measured.
        """
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        if ENHANCED in outputs:
            enhanced_metrics = dict.fromkeys(metrics, math.nan)
            if _can_be_made(outputs):
                as_rgb = {**outputs, "rgb": outputs[ENHANCED]}
                enhanced_metrics, enhanced_images = super().get_image_metrics_and_images(as_rgb, batch)
                images["img_enhanced"] = enhanced_images["img"]
            metrics |= {f"{name}_enhanced": value for name, value in enhanced_metrics.items()}
        if self.watch is not None:
            self.watch(batch, metrics, images)
        return metrics, images


def _can_be_made(outputs: dict[str, Any]) -> bool:
    """Whether the enhancer makes its image; when it fails that is said, and no training ends for it."""
    try:
        return bool(outputs[ENHANCED].isfinite().all())
    except Exception as error:
        CONSOLE.log(f"{ENHANCED} is not measured, the enhancer failed: {type(error).__name__}: {first_line(error)}")
        return False


@dataclass
class HarmonizeSplatfactoModelConfig(SplatfactoModelConfig):
    """Settings of splatfacto that also runs without CUDA."""

    _target: type = field(default_factory=lambda: HarmonizeSplatfactoModel)
    opacity_reg: float | None = None
    """Weight of the mean opacity in the loss, which thins out what floats before few photos; None: 0.02 where at most
    20 photos are learned from, 0 with more."""


class HarmonizeSplatfactoModel(EnhancedModel, SplatfactoModel):
    """Splatfacto is nerfstudio's own with CUDA; on other devices the two calls that need CUDA are replaced."""

    config: HarmonizeSplatfactoModelConfig

    def populate_modules(self) -> None:
        """As upstream. Seed colours are set here because upstream moves them to CUDA."""
        mend_resets()
        points = self.seed_points
        if points is not None and len(points[0]) < MIN_POINTS:  # upstream cannot size them
            points = self.seed_points = None
        if points is None or self.config.random_init:
            super().populate_modules()
            return
        self.seed_points = (points[0], points[1][:0])  # upstream accepts points without colours
        super().populate_modules()
        self.seed_points = points
        colors = points[1].float() / 255
        base = RGB2SH(colors) if self.config.sh_degree > 0 else torch.logit(colors, eps=1e-10)
        self.gauss_params["features_dc"] = torch.nn.Parameter(base)

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Upstream's losses; in training also the mean opacity, and how far the photo's depth is, if depth is drawn."""
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        weight = opacity_weight(self.config.opacity_reg, self.num_train_data)
        if self.training and weight > 0:
            losses["opacity_reg"] = weight * mean_opacity(self.gauss_params)
        if self.teacher is not None and self.training:
            depth = torch.where(outputs["accumulation"] > 0, outputs["depth"], 0.0).permute(2, 0, 1)
            losses["depth_loss"] = self.teacher.on_image(depth, batch["image_idx"], self.step)
        return losses

    def step_post_backward(self, step: int) -> None:
        """Control density as upstream does; gradients of a step that was skipped count for nothing."""
        if not self.step_skipped:
            super().step_post_backward(step)

    def get_outputs(self, camera: NerfstudioCameras) -> dict[str, Any]:
        """As upstream, through the CPU rasterizer where there is no CUDA."""
        if self.device.type == "cuda":
            return super().get_outputs(camera)
        if self.crop_box is None or self.training:
            return self._outputs(camera, slice(None))
        inside = self.crop_box.within(self.means).squeeze()
        if not inside.any():
            return self.get_empty_outputs(int(camera.width.item()), int(camera.height.item()), self.background_color)
        return self._outputs(camera, inside)

    def _outputs(self, camera: NerfstudioCameras, chosen: slice | Tensor) -> dict[str, Any]:
        with_depth = self.config.output_depth_during_training or not self.training
        drawn = self._rasterize(camera, chosen, with_depth)
        alpha, background = _channels_last(drawn.alpha), self._get_background_color()
        rgb = torch.clamp(_channels_last(drawn.rgb) + (1 - alpha) * background, 0.0, 1.0)
        photo = (camera.metadata or {}).get("cam_idx")
        if self.config.use_bilateral_grid and self.training and photo is not None:
            rgb = self._apply_bilateral_grid(rgb, photo, *self.last_size)
        depth = None
        if drawn.depth is not None:
            depth = _channels_last(drawn.depth)
            depth = torch.where(alpha > 0, depth, depth.detach().max()).squeeze(0)
        if not self.training:
            background = background.expand(*self.last_size, 3)
        return {"rgb": rgb.squeeze(0), "depth": depth, "accumulation": alpha.squeeze(0), "background": background}

    def _rasterize(self, camera: NerfstudioCameras, chosen: slice | Tensor, with_depth: bool) -> Rasterized:
        factor = self._get_downscale_factor()
        camera.rescale_output_resolution(1 / factor)
        view = from_nerfstudio(camera)
        camera.rescale_output_resolution(factor)
        poses = self.camera_optimizer.apply_to_camera(camera) if self.training else camera.camera_to_worlds
        self.last_size = (view.height, view.width)
        splats = {name: value[chosen] for name, value in from_splatfacto(dict(self.gauss_params.items())).items()}
        degree, colors = min(self.step // self.config.sh_degree_interval, self.config.sh_degree), None
        if self.config.sh_degree == 0:
            degree = None
            colors = torch.sigmoid(torch.cat([splats["sh0"], splats["shN"]], dim=1)).squeeze(1)
        options = RasterOptions(antialiased=self.config.rasterize_mode == "antialiased", absgrad=self.strategy.absgrad)
        view = replace(view, camera_to_world=opencv_poses(poses))
        drawn = rasterize(splats, view, degree, options, with_depth, colors)
        self.info = drawn.info
        if self.training:
            self.strategy.step_pre_backward(
                self.gauss_params, self.optimizers, self.strategy_state, self.step, self.info
            )
        return drawn


def begin_at(model: SplatfactoModel, seeds: Seeds) -> None:
    """Let a new model, which has no optimizers yet, begin with the Gaussians that seed points give."""
    degree = model.config.sh_degree
    splats = seed_splats(
        seeds.points, seeds.colors, degree, quats=random_quat_tensor(len(seeds)), normals=seeds.normals
    )
    if degree == 0:  # upstream then learns logits
        splats["sh0"] = torch.logit(seeds.colors, eps=1e-10)[:, None]
    for name, value in to_splatfacto(splats).items():
        model.gauss_params[name] = torch.nn.Parameter(value.to(model.device))


def _channels_last(image: Tensor) -> Float[Tensor, "1 h w c"]:
    return image.permute(0, 2, 3, 1)


@dataclass
class HarmonizeNerfactoModelConfig(NerfactoModelConfig):
    """Settings of nerfacto with the second image."""

    _target: type = field(default_factory=lambda: HarmonizeNerfactoModel)


class HarmonizeNerfactoModel(EnhancedModel, NerfactoModel):
    """Nerfacto is nerfstudio's own, with the second image."""

    config: HarmonizeNerfactoModelConfig

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Upstream's losses, and in training the distance of photos' rays to the photos' depth."""
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if self.teacher is not None and self.training and "indices" in batch:  # repaired views have none
            rays = outputs["ray_samples_list"][-1].frustums.directions[:, 0]
            distance, photos = outputs["expected_depth"][:, 0], batch["indices"][:, 0]
            losses["depth_loss"] = self.teacher.on_rays(distance, rays, photos, self.step)
        return losses
