# SPDX-License-Identifier: Apache-2.0
"""A compact Gaussian-splatting fitter: photos and seed points in, a renderer out.

Implements Kerbl et al. 2023 (L1 + D-SSIM loss, adaptive density control through gsplat's ``DefaultStrategy``) with
schedules given as fractions of the run, since the fits made here last hundreds of steps, not tens of thousands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.raster import rasterization
from harmonizer_ns.metrics import splat_loss
from harmonizer_ns.types import Cameras, Frames, cat_frames

SH_C0 = 0.28209479177387814
"""The constant spherical harmonic, ``1 / (2 sqrt(pi))``."""

Splats = torch.nn.ParameterDict


@dataclass(frozen=True)
class LearningRates:
    """Adam step sizes: those of Kerbl et al. times 2 to 10, chosen on runs of some hundred steps."""

    means: float = 1.5e-3
    """In units of the scene's extent; falls exponentially to a hundredth of this."""
    scales: float = 2e-2
    quats: float = 4e-3
    opacities: float = 1e-1
    sh0: float = 1e-2
    sh_rest: float = 1e-3


@dataclass(frozen=True)
class SplatConfig:
    """How a splat is fitted."""

    steps: int = 700
    """Optimisation steps, one photo each."""
    seed: int = 0
    """Seed of photo order and density control: on a CPU, equal seeds give equal splats bit by bit."""
    max_gaussians: int = 15_000
    """Cap on the number of Gaussians, seed points included."""
    sh_degree: int = 1
    """Degree of the view-dependent colour (0 to 3)."""
    ssim_weight: float = 0.2
    """Share of D-SSIM in the loss; the rest is L1."""
    coarse_fraction: float = 0.5
    """Share of the steps, at the start, trained at half resolution."""
    refine_start: float = 0.15
    """Density control begins after this share of the steps ..."""
    refine_stop: float = 0.75
    """... and ends after this share ..."""
    refinements: int = 5
    """... acting this often in between."""
    grow_gradient: float = 2e-4
    """Mean screen-space gradient above which a Gaussian is cloned or split."""
    min_alpha: float = 0.3
    """Rendered depth is 0 where the accumulated opacity is below this."""
    rates: LearningRates = field(default_factory=LearningRates)
    """Step sizes."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.max_gaussians < 4 or not 0 <= self.sh_degree <= 3:
            raise ValueError(f"need steps >= 1, max_gaussians >= 4 and sh_degree in 0..3, got {self}")


class SplatRenderer:
    """Renders fitted Gaussians.

    Args:
        splats: means, scales (log), quats, opacities (logit), sh0 and sh_rest.
        sh_degree: degree of the view-dependent colour.
        min_alpha: depth is 0 where the accumulated opacity is below this.
    """

    def __init__(self, splats: dict[str, Tensor], sh_degree: int, min_alpha: float) -> None:
        self.splats, self.sh_degree, self.min_alpha = splats, sh_degree, min_alpha

    @torch.no_grad()
    def render(self, cameras: Cameras) -> Frames:
        """Colour over black, opacity and expected depth of every camera."""
        cameras = cameras.to(self.splats["means"].device)
        return cat_frames([self._render_one(camera) for camera in cameras])

    def _render_one(self, camera: Cameras) -> Frames:
        image, alpha, _ = rasterize(self.splats, camera, self.sh_degree, "RGB+ED")
        image, alpha = image.permute(0, 3, 1, 2), alpha.permute(0, 3, 1, 2).clamp(0, 1)
        depth = torch.where(alpha >= self.min_alpha, image[:, 3:], torch.zeros_like(alpha))
        return Frames(image[:, :3].clamp(0, 1), alpha, depth, camera)


class SplatReconstructor:
    """Fits Gaussians to photos (the `Reconstructor` protocol), on the device of the photos.

    Args:
        config: how to fit.
    """

    def __init__(self, config: SplatConfig | None = None) -> None:
        self.config = config or SplatConfig()

    def fit(
        self,
        photos: list[Frames],
        points: Float[Tensor, "p 3"],
        colors: Float[Tensor, "p 3"],
        weights: list[Float[Tensor, "1 1 h w"]] | None = None,
    ) -> SplatRenderer:
        """Fit to photos (batches of one; sizes may differ) from seed points with colours in [0, 1].

        Args:
            photos: what the renders should look like.
            points: seed points.
            colors: their colours.
            weights: for each photo, how much its pixels count, in [0, 1]; all count fully without.

        Raises:
            ValueError: without photos, with fewer than 4 points, or with points and colours of different shapes,
                or when weights do not fit the photos.
        """
        if not photos or len(points) < 4 or points.shape != colors.shape:
            raise ValueError(
                f"a splat needs photos and at least 4 coloured seed points, got {len(photos)} photos, "
                f"points {tuple(points.shape)} and colours {tuple(colors.shape)}"
            )
        if weights is not None and [w.shape for w in weights] != [photo.alpha.shape for photo in photos]:
            raise ValueError(
                f"weights need one map 1 1 h w per photo, of its size, got {[tuple(w.shape) for w in weights]}"
            )
        device = photos[0].rgb.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.config.seed)
            splats = seed_splats(points.to(device), colors.to(device), self.config)
            splats = _optimize(splats, photos, weights, self.config)
        fixed = {name: value.detach() for name, value in splats.items()}
        return SplatRenderer(fixed, self.config.sh_degree, self.config.min_alpha)


def seed_splats(points: Float[Tensor, "p 3"], colors: Float[Tensor, "p 3"], config: SplatConfig) -> Splats:
    """One round Gaussian per seed point, as wide as the distance to its three nearest neighbours."""
    if len(points) > config.max_gaussians:
        kept = torch.randperm(len(points))[: config.max_gaussians].to(points.device)
        points, colors = points[kept], colors[kept]
    n, rest = len(points), (config.sh_degree + 1) ** 2 - 1
    spacing = _neighbour_distance(points)
    values = {
        "means": points,
        "scales": spacing.log()[:, None].repeat(1, 3),
        "quats": points.new_tensor([1.0, 0.0, 0.0, 0.0]).repeat(n, 1),
        "opacities": torch.logit(points.new_full((n,), 0.1)),
        "sh0": ((colors - 0.5) / SH_C0)[:, None],
        "sh_rest": points.new_zeros(n, rest, 3),
    }
    return Splats({name: torch.nn.Parameter(value.clone().float()) for name, value in values.items()})


def rasterize(splats: Any, camera: Cameras, sh_degree: int, mode: str) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Rasterize one camera: image ``1 h w c``, alpha ``1 h w 1`` and gsplat's meta data."""
    return rasterization(
        means=splats["means"],
        quats=splats["quats"],
        scales=splats["scales"].exp(),
        opacities=splats["opacities"].sigmoid(),
        colors=torch.cat([splats["sh0"], splats["sh_rest"]], dim=1),
        viewmats=camera.world_to_camera,
        Ks=camera.intrinsics,
        width=camera.width,
        height=camera.height,
        sh_degree=sh_degree,
        render_mode=mode,
        packed=False,
    )


def _optimize(splats: Splats, photos: list[Frames], weights: list[Tensor] | None, config: SplatConfig) -> Splats:
    """The optimisation loop of Kerbl et al.; returns the splats with their Gaussians as density control left them."""
    scale = _scene_scale(photos)
    optimizers = _optimizers(splats, config.rates, scale)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizers["means"], 0.01 ** (1 / config.steps))
    strategy = _strategy(config)
    state = strategy.initialize_state(scene_scale=scale)
    halves = [_half(photo) for photo in photos]
    order: list[int] = []
    for step in range(1, config.steps + 1):  # from 1: gsplat 1.4 resets all opacities at step 0
        order = order or torch.randperm(len(photos)).tolist()
        index = order.pop()
        photo = (halves if step <= config.coarse_fraction * config.steps else photos)[index]
        degree = config.sh_degree if step > config.steps // 3 else 0
        image, _, info = rasterize(splats, photo.cameras, degree, "RGB")
        strategy.step_pre_backward(splats, optimizers, state, step, info)
        image = image.permute(0, 3, 1, 2)
        if weights is not None:  # what does not count is as it should be
            image = torch.lerp(photo.rgb, image, F.interpolate(weights[index], image.shape[-2:], mode="area"))
        splat_loss(image, photo.rgb, config.ssim_weight).backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay.step()
        _respect_cap(strategy, state, len(splats["means"]), config)
        strategy.step_post_backward(splats, optimizers, state, step, info)
    return splats


def _optimizers(splats: Splats, rates: LearningRates, scale: float) -> dict[str, torch.optim.Optimizer]:
    """One Adam per tensor, as gsplat's density control expects."""
    factor = {"means": scale}
    return {
        name: torch.optim.Adam([value], lr=getattr(rates, name) * factor.get(name, 1.0), eps=1e-15, fused=True)
        for name, value in splats.items()
    }


def _strategy(config: SplatConfig) -> Any:
    from gsplat.strategy import DefaultStrategy

    span = (config.refine_stop - config.refine_start) * config.steps
    return DefaultStrategy(
        refine_start_iter=int(config.refine_start * config.steps),
        refine_stop_iter=int(config.refine_stop * config.steps),
        refine_every=max(1, int(span / config.refinements)),
        reset_every=config.steps + 1,
        grow_grad2d=config.grow_gradient,
    )


def _respect_cap(strategy: Any, state: dict[str, Any], count: int, config: SplatConfig) -> None:
    """Raise the growth threshold so far that the Gaussians above it fit into the remaining budget."""
    budget = config.max_gaussians - count
    threshold = config.grow_gradient
    if state["grad2d"] is not None and budget < count:
        gradients = state["grad2d"] / state["count"].clamp(min=1)
        largest = gradients.topk(max(budget, 0) + 1).values[-1].item()
        threshold = max(threshold, largest) if budget > 0 else math.inf
    strategy.grow_grad2d = threshold


def _half(photo: Frames) -> Frames:
    """The photo at half the resolution."""
    cameras = photo.cameras.resized(max(1, photo.cameras.width // 2), max(1, photo.cameras.height // 2))
    rgb, alpha, depth = (
        F.interpolate(image, size=(cameras.height, cameras.width), mode="area")
        for image in (photo.rgb, photo.alpha, photo.depth)
    )
    return Frames(rgb, alpha, depth, cameras)


def _scene_scale(photos: list[Frames]) -> float:
    """Radius of the cameras around their mean, in scene units (gsplat's convention); 1 for a single position."""
    centers = torch.cat([photo.cameras.centers for photo in photos])
    radius = (centers - centers.mean(dim=0)).norm(dim=1).max().item()
    return 1.1 * radius or 1.0


def _neighbour_distance(points: Float[Tensor, "p 3"]) -> Float[Tensor, " p"]:
    """Root mean square distance to the three nearest other points, at least a millionth of the cloud's extent."""
    from scipy.spatial import KDTree

    cloud = points.detach().cpu().double().numpy()
    distances, _ = KDTree(cloud).query(cloud, k=4)
    spacing = torch.from_numpy((distances[:, 1:] ** 2).mean(axis=1) ** 0.5)
    floor = 1e-6 * (points.amax(dim=0) - points.amin(dim=0)).norm().item()
    return spacing.clamp(min=max(floor, 1e-9)).to(points)
