# SPDX-License-Identifier: Apache-2.0
"""Gaussians are drawn here: with gradients for training, as a `Renderer` for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.raster import rasterization
from harmonizer_ns.splats.model import Splats, degree_of
from harmonizer_ns.types import EMPTY_ALPHA, Cameras, Frames, cat_frames

MIN_ALPHA = 0.05
"""Cameras that see less than this of the splats, on average, are in another frame."""
_CHECKED = 4


@dataclass(frozen=True)
class RasterOptions:
    """These options say how Gaussians are rasterized; see `harmonizer_ns.raster`."""

    near_plane: float = 0.01
    far_plane: float = 1e10
    antialiased: bool = False
    packed: bool = False
    absgrad: bool = False
    distributed: bool = False


class Rasterized(NamedTuple):
    """Holds unclamped colours over black, opacity, expected depth (None when not asked for) and gsplat's meta."""

    rgb: Float[Tensor, "n 3 h w"]
    alpha: Float[Tensor, "n 1 h w"]
    depth: Float[Tensor, "n 1 h w"] | None
    info: dict[str, Any]


def rasterize(
    splats: Splats,
    cameras: Cameras,
    degree: int | None,
    options: RasterOptions = RasterOptions(),
    with_depth: bool = False,
    colors: Float[Tensor, "n 3"] | None = None,
) -> Rasterized:
    """Draw the splats; gradients flow to them and to the cameras' poses.

    Args:
        splats: the Gaussians.
        cameras: where to look from.
        degree: of the splats' own colours; None with ``colors``.
        options: how.
        with_depth: draw depth as well.
        colors: shown in the place of the splats' own.
    """
    image, alpha, info = rasterization(
        means=splats["means"],
        quats=splats["quats"],
        scales=torch.exp(splats["scales"]),
        opacities=torch.sigmoid(splats["opacities"]),
        colors=_harmonics(splats, degree) if colors is None else colors,
        viewmats=cameras.world_to_camera,
        Ks=cameras.intrinsics,
        width=cameras.width,
        height=cameras.height,
        near_plane=options.near_plane,
        far_plane=options.far_plane,
        sh_degree=degree,
        packed=options.packed,
        render_mode="RGB+ED" if with_depth else "RGB",
        absgrad=options.absgrad,
        rasterize_mode="antialiased" if options.antialiased else "classic",
        distributed=options.distributed,
    )
    image, alpha = image.permute(0, 3, 1, 2), alpha.permute(0, 3, 1, 2)
    return Rasterized(image[:, :3], alpha, image[:, 3:] if with_depth else None, info)


def _harmonics(splats: Splats, degree: int | None) -> Float[Tensor, "n k 3"]:
    """Coefficients of the colours up to a degree; what is not shown is neither copied nor given a gradient."""
    if degree == 0:
        return splats["sh0"]
    shown = splats["shN"] if degree is None else splats["shN"][:, : (degree + 1) ** 2 - 1]
    return torch.cat([splats["sh0"], shown], dim=1)


@dataclass(frozen=True)
class SplatRenderer:
    """Renders splats without gradients.

    Args:
        splats: the Gaussians.
        degree: of colour that is in use; None: all that the splats hold.
        options: how.
        min_alpha: depth is 0 where the accumulated opacity is not above this.
    """

    splats: Splats
    degree: int | None = None
    options: RasterOptions = RasterOptions()
    min_alpha: float = EMPTY_ALPHA

    @torch.no_grad()
    def render(self, cameras: Cameras) -> Frames:
        """Draw colour over black, opacity and expected z-depth of every camera, on the splats' device."""
        cameras = cameras.to(self.splats["means"].device)
        return cat_frames([self._render_one(camera) for camera in cameras])

    def _render_one(self, camera: Cameras) -> Frames:
        degree = degree_of(self.splats) if self.degree is None else self.degree
        options = replace(self.options, packed=False, absgrad=False, distributed=False)  # only training needs these
        drawn = rasterize(self.splats, camera, degree, options, with_depth=True)
        assert drawn.depth is not None
        return Frames.rendered(drawn.rgb, drawn.alpha, drawn.depth, camera, self.min_alpha)


def check_seen(splats: Splats, cameras: Sequence[Cameras]) -> None:
    """Refuse cameras that do not see the splats; the usual cause is another world frame.

    Raises:
        InputError: when a few of the cameras see less than `MIN_ALPHA` of opacity on average; says what may be wrong.
    """
    renderer = SplatRenderer(splats)
    some = cameras[:: max(1, len(cameras) // _CHECKED)][:_CHECKED]
    small = [camera.resized(max(1, 64 * camera.width // max(camera.width, camera.height)), 64) for camera in some]
    alpha = max(renderer.render(camera).alpha.mean().item() for camera in small)
    if alpha < MIN_ALPHA:
        raise InputError(
            f"the capture's cameras hardly see the splats (mean opacity {alpha:.3f}): they are in different frames. "
            "ns-export writes nerfstudio's frame: give its run's dataparser_transforms.json with --ply_transform; "
            "gsplat's trainer normalises the world: --ply_transform gsplat"
        )
