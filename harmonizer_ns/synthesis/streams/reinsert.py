# SPDX-License-Identifier: Apache-2.0
"""Asset re-insertion (DiffusionHarmonizer) puts an object back where it stood, without its shadow.

1. A splat is fitted to the photos.
2. The object's Gaussians are those that its masks show in most views.
3. The background is fitted anew, with the object and the ground around its foot, where its shadow lies, left out of
   the photos and filled from around.
4. The object is rendered over that background from the photos' cameras: it stands where it did, on ground that it
   does not darken. The target is the photo.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.errors import check_limits
from harmonizer_ns.images import to_float, to_pixels
from harmonizer_ns.progress import counted
from harmonizer_ns.splats.model import Splats, base_colors, chosen
from harmonizer_ns.splats.rendering import SplatRenderer, rasterize
from harmonizer_ns.synthesis.streams.base import Made
from harmonizer_ns.synthesis.streams.fits import Views, show_photo
from harmonizer_ns.synthesis.streams.masks import MaskConfig, feather
from harmonizer_ns.synthesis.streams.runs import Run, RunSettings, fit_run, splat_fitter
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.warp import in_frustum, project

_OVERLAP = 0.5
"""Least intersection over union of an object's masks and of what its Gaussians show."""
_ERROR = 0.01
"""Largest mean square error of an object that is cut out: a blur with no detail is no asset (20 dB)."""


@dataclass(frozen=True)
class ReinsertSettings:
    """These settings say how objects are cut out and put back."""

    run: RunSettings = field(default_factory=lambda: RunSettings(steps=600))
    """Clips, and both fits behind them."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """Where the object comes from; auto: what stands out in depth and colour."""
    margin: float = 0.12
    """How far the mask is grown, in square roots of the object's area ..."""
    shadow: float = 0.35
    """... and around the lowest third of the object."""
    fill_weight: float = 0.2
    """How much pixels that are filled from around count in the background's fit."""
    paste: bool = True
    """Keep the photo outside the mask; otherwise all of the frame is rendered."""
    feather: int = 3
    """Pixels over which the mask's edge softens, inward."""

    def __post_init__(self) -> None:
        check_limits(self, margin=(0, 2), shadow=(0, 2), fill_weight=(1e-6, 1), feather=(0, 99))


def make_reinsert(capture: Capture, settings: ReinsertSettings, seed: int) -> Iterator[Made]:
    """Re-insert one object in each clip; each takes another fit of the background.

    Raises:
        InputError: when the capture is too small, or no object is found in it.
    """
    run = fit_run(capture, settings.run, seed)
    found = run.clips_with_objects(lambda views, own_seed: _own_gaussians(run, views, settings, own_seed))
    for number, views, _, own in found:
        yield from _make_clip(run, own, views, number, settings)


def _own_gaussians(run: Run, views: Views, settings: ReinsertSettings, seed: int) -> Tensor | None:
    """Find the Gaussians of an object that they show well in all frames."""
    renders, photos = run.renders(views), run.clip(views).frames
    for masks in run.object_masks(views, settings.masks, seed):
        own = lift(run.splat.splats, renders, masks)
        shown = visible_share(run.splat, own, renders.cameras) > 0.5
        overlap = (shown & (masks > 0)).sum() / (shown | (masks > 0)).sum().clamp(min=1)
        error = (masks * (renders.rgb - photos).square()).sum() / (3 * masks.sum())
        if overlap > _OVERLAP and error < _ERROR:
            return own
    return None


def lift(splats: Splats, renders: Frames, masks: Float[Tensor, "n 1 h w"]) -> Bool[Tensor, " g"]:
    """Find the Gaussians inside the masks, or at their edge, in most of the views that see their centres.

    What is hidden in all views counts where it is no deeper behind the object's surface than the object is wide.
    """
    reach = max(1, masks.shape[-1] // 100)
    masks = F.max_pool2d(masks, 2 * reach + 1, 1, reach)
    places = [_place(splats["means"], render, mask) for render, mask in zip(renders, masks, strict=True)]
    inside, in_view, ratio = map(torch.stack, zip(*places, strict=True))
    seen = in_view & (ratio < 1.05)
    width = masks.sum(dim=(1, 2, 3)).sqrt() / renders.cameras.intrinsics[:, 0, 0]
    mostly = (inside & seen).sum(0) > 0.5 * seen.sum(0)
    return mostly | (~seen.any(0) & (inside & (ratio < 1 + width[:, None])).all(0))


def _place(means: Float[Tensor, "g 3"], render: Frames, mask: Float[Tensor, "1 h w"]) -> tuple[Tensor, Tensor, Tensor]:
    """Tell of each Gaussian in a view: is it inside the mask, is it in view, and its depth over the visible one."""
    camera = render.cameras
    pixels, z = project(means[None], camera)
    place = pixels / means.new_tensor([camera.width, camera.height]) * 2 - 1
    maps = torch.cat([mask[None], render.depth], 1)
    inside, depth = F.grid_sample(maps, place[None], mode="nearest", align_corners=False)[0, :, 0]
    in_view = in_frustum(camera, means)[0]
    return (inside > 0) & in_view, in_view, z[0] / depth.clamp(min=1e-12)


def visible_share(renderer: SplatRenderer, own: Bool[Tensor, " g"], cameras: Cameras) -> Float[Tensor, "n 1 h w"]:
    """Measure how much of each pixel shows these Gaussians, others in front of them considered."""
    colors = own.float()[:, None].expand(-1, 3).contiguous()
    return rasterize(renderer.splats, cameras, None, colors=colors).rgb[:, :1].clamp(0, 1)


def _make_clip(run: Run, own: Tensor, views: Views, number: int, settings: ReinsertSettings) -> Iterator[Made]:
    visible = visible_share(run.splat, own, run.cameras(range(len(run.capture))))
    masks = torch.stack([with_shadow(mask, settings) for mask in (visible > 0.4).float()])
    background, asset = fit_background(run, own, masks, settings), select(run.splat, own)
    parameters = {"gaussians": int(own.sum()), "margin": settings.margin, "shadow": settings.shadow}
    soft = feather(masks, settings.feather)
    for view in counted(views, f"views of clip {number}"):
        camera = run.capture.cameras[view]
        render = compose(asset.render(camera), visible[view : view + 1], background.render(camera))
        mask = soft[view] if settings.paste else None
        if mask is not None:
            render = replace(render, rgb=torch.lerp(run.capture.frames(view).rgb, render.rgb, mask))
        yield show_photo(run, view, render, parameters, number, mask)


def with_shadow(mask: Float[Tensor, "1 h w"], settings: ReinsertSettings) -> Float[Tensor, "1 h w"]:
    """Grow a mask on all sides, and more around the foot of the object, where its shadow is likely."""
    rows = mask[0].any(1).nonzero()[:, 0]
    if not len(rows):
        return mask
    size = mask.sum().sqrt().item()
    foot = mask.clone()
    foot[:, : int(rows[0] + 2 * (rows[-1] - rows[0]) // 3)] = 0
    return torch.maximum(_grown(mask, settings.margin * size), _grown(foot, settings.shadow * size))


def _grown(mask: Float[Tensor, "1 h w"], pixels: float) -> Float[Tensor, "1 h w"]:
    """Add what lies within so many pixels of the mask."""
    import cv2

    far = cv2.distanceTransform((mask[0] == 0).byte().numpy(), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return torch.from_numpy(far <= round(pixels))[None].float() * mask.any()


def fit_background(
    run: Run, own: Bool[Tensor, " g"], masks: Float[Tensor, "n 1 h w"], settings: ReinsertSettings
) -> SplatRenderer:
    """Fit the scene without the object, to photos that are filled from around inside the masks."""
    photos = [_filled(run.capture.frames(i), mask) for i, mask in enumerate(masks)]
    weights = [1 - (1 - settings.fill_weight) * mask[None] for mask in masks]
    splats = run.splat.splats
    points, colors = splats["means"][~own], base_colors(splats)[~own].clamp(0, 1)
    return splat_fitter(run.settings, run.seed).fit(photos, points, colors, weights)


def _filled(photo: Frames, mask: Float[Tensor, "1 h w"]) -> Frames:
    """Fill the mask from around (Telea 2004)."""
    import cv2

    filled = cv2.inpaint(to_pixels(photo.rgb[0]), (mask[0] > 0).byte().numpy(), 3, cv2.INPAINT_TELEA)
    return Frames(to_float(torch.from_numpy(filled).permute(2, 0, 1))[None], photo.alpha, photo.depth, photo.cameras)


def select(renderer: SplatRenderer, own: Bool[Tensor, " g"]) -> SplatRenderer:
    """Render these Gaussians alone."""
    return replace(renderer, splats=chosen(renderer.splats, own))


def compose(asset: Frames, share: Float[Tensor, "n 1 h w"], background: Frames) -> Frames:
    """Lay renders of an object over a background, by how much each pixel showed the object where it stood.

    Layers, since in one rasterization wide Gaussians of the ground before the object's foot would hide it.
    """
    colors = (asset.rgb / asset.alpha.clamp(min=1e-3)).clamp(0, 1)
    depth = torch.where((share > 0.5) & (asset.depth > 0), asset.depth, background.depth)
    alpha = torch.lerp(background.alpha, torch.ones_like(share), share)
    return Frames(torch.lerp(background.rgb, colors, share), alpha, depth, background.cameras)
