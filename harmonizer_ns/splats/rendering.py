# SPDX-License-Identifier: Apache-2.0
"""Rasterize the trainer's Gaussians: with gradients for training, as a `Renderer` for everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gsplat_trainer.config import Config
from harmonizer_ns.raster import rasterization
from harmonizer_ns.types import Cameras, Frames, cat_frames

EMPTY_ALPHA = 1e-3
"""Pixels with less accumulated opacity have no depth."""


@dataclass(frozen=True)
class RasterOptions:
    """How Gaussians are rasterized; see `harmonizer_ns.raster`."""

    near_plane: float = 0.01
    far_plane: float = 1e10
    antialiased: bool = False
    packed: bool = False
    sparse_grad: bool = False
    absgrad: bool = False
    distributed: bool = False

    @staticmethod
    def of(config: Config, distributed: bool = False) -> RasterOptions:
        """Those of a run in training."""
        return RasterOptions(
            config.near_plane,
            config.far_plane,
            config.antialiased,
            config.packed,
            config.sparse_grad,
            getattr(config.strategy, "absgrad", False),
            distributed,
        )

    def for_viewing(self) -> RasterOptions:
        """The same image without what only training needs."""
        return replace(self, packed=False, sparse_grad=False, absgrad=False, distributed=False)


class Rasterized(NamedTuple):
    """Unclamped colours over black, opacity, expected depth (None when not asked for) and gsplat's meta."""

    rgb: Float[Tensor, "n 3 h w"]
    alpha: Float[Tensor, "n 1 h w"]
    depth: Float[Tensor, "n 1 h w"] | None
    info: dict[str, Any]


def rasterize(
    splats: Any,
    cameras: Cameras,
    sh_degree: int,
    options: RasterOptions,
    mode: Literal["RGB", "RGB+ED"] = "RGB",
) -> Rasterized:
    """Draw the splats; gradients flow to them and to the cameras' poses."""
    image, alpha, info = rasterization(
        means=splats["means"],
        quats=splats["quats"],
        scales=torch.exp(splats["scales"]),
        opacities=torch.sigmoid(splats["opacities"]),
        colors=torch.cat([splats["sh0"], splats["shN"]], dim=1),
        viewmats=cameras.world_to_camera,
        Ks=cameras.intrinsics,
        width=cameras.width,
        height=cameras.height,
        near_plane=options.near_plane,
        far_plane=options.far_plane,
        sh_degree=sh_degree,
        packed=options.packed,
        render_mode=mode,
        sparse_grad=options.sparse_grad,
        absgrad=options.absgrad,
        rasterize_mode="antialiased" if options.antialiased else "classic",
        distributed=options.distributed,
    )
    image, alpha = image.permute(0, 3, 1, 2), alpha.permute(0, 3, 1, 2)
    return Rasterized(image[:, :3], alpha, image[:, 3:] if mode == "RGB+ED" else None, info)


@dataclass(frozen=True)
class SplatRenderer:
    """Renders splats without gradients.

    Args:
        splats: gives them as they are now.
        degree: gives the degree of colour that is in use now.
        options: how.
    """

    splats: Callable[[], Any]
    degree: Callable[[], int]
    options: RasterOptions = RasterOptions()

    @torch.no_grad()
    def render(self, cameras: Cameras) -> Frames:
        """Colour over black, opacity and expected z-depth of every camera, on the splats' device."""
        cameras = cameras.to(self.splats()["means"].device)
        return cat_frames([self._render_one(camera) for camera in cameras])

    def _render_one(self, camera: Cameras) -> Frames:
        drawn = rasterize(self.splats(), camera, self.degree(), self.options.for_viewing(), "RGB+ED")
        assert drawn.depth is not None
        depth = torch.where(drawn.alpha > EMPTY_ALPHA, drawn.depth, torch.zeros_like(drawn.depth))
        return Frames(drawn.rgb.clamp(0, 1), drawn.alpha.clamp(0, 1), depth, camera)
