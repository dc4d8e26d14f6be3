# SPDX-License-Identifier: Apache-2.0
"""This compact fitter takes photos and seed points, and gives a renderer of Gaussians.

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

from harmonizer_ns.metrics import splat_loss
from harmonizer_ns.poses import camera_extent
from harmonizer_ns.progress import counted
from harmonizer_ns.splats.model import MIN_POINTS, parameters, seed_splats
from harmonizer_ns.splats.rendering import SplatRenderer, rasterize
from harmonizer_ns.types import Frames


@dataclass(frozen=True)
class LearningRates:
    """These are Adam's step sizes: those of Kerbl et al. times 2 to 10, chosen on runs of some hundred steps."""

    means: float = 1.5e-3
    """In units of the scene's extent; falls exponentially to a hundredth of this."""
    scales: float = 2e-2
    quats: float = 4e-3
    opacities: float = 1e-1
    sh0: float = 1e-2
    shN: float = 1e-3  # noqa: N815 (gsplat's name)


@dataclass(frozen=True)
class SplatConfig:
    """These settings say how a splat is fitted."""

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
    """Rendered depth is 0 where the accumulated opacity is not above this: so short a fit leaves haze, whose expected
    depth says where no surface is, and references are warped by these depths."""
    rates: LearningRates = field(default_factory=LearningRates)
    """Step sizes."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.max_gaussians < MIN_POINTS or not 0 <= self.sh_degree <= 3:
            raise ValueError(f"need steps >= 1, max_gaussians >= 4 and sh_degree in 0..3, got {self}")


@dataclass(frozen=True)
class SplatReconstructor:
    """Fits Gaussians to photos (the `Reconstructor` protocol), on the device of the photos."""

    config: SplatConfig

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
        if not photos or len(points) < MIN_POINTS or points.shape != colors.shape:
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
            points, colors = _capped(points.to(device), colors.to(device), self.config.max_gaussians)
            splats = parameters(seed_splats(points, colors, self.config.sh_degree), device)
            _optimize(splats, photos, weights, self.config)
        fixed = {name: value.detach() for name, value in splats.items()}
        return SplatRenderer(fixed, min_alpha=self.config.min_alpha)


def _capped(
    points: Float[Tensor, "p 3"], colors: Float[Tensor, "p 3"], most: int
) -> tuple[Float[Tensor, "q 3"], Float[Tensor, "q 3"]]:
    """Keep at most so many of the points, drawn by chance, and their colours."""
    if len(points) <= most:
        return points, colors
    kept = torch.randperm(len(points))[:most].to(points.device)
    return points[kept], colors[kept]


def _optimize(
    splats: torch.nn.ParameterDict, photos: list[Frames], weights: list[Tensor] | None, config: SplatConfig
) -> None:
    """Run the optimisation loop of Kerbl et al. in place: density control changes how many Gaussians there are."""
    scale = camera_extent(torch.cat([photo.cameras.centers for photo in photos]))
    optimizers = _optimizers(splats, config.rates, scale)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizers["means"], 0.01 ** (1 / config.steps))
    strategy = _strategy(config)
    state = strategy.initialize_state(scene_scale=scale)
    halves = [_half(photo) for photo in photos]
    order: list[int] = []
    # From 1: until 1.5.2 gsplat resets all opacities at step 0.
    for step in counted(range(1, config.steps + 1), "steps of a fit"):
        order = order or torch.randperm(len(photos)).tolist()
        index = order.pop()
        photo = (halves if step <= config.coarse_fraction * config.steps else photos)[index]
        degree = config.sh_degree if step > config.steps // 3 else 0
        drawn = rasterize(splats, photo.cameras, degree)
        strategy.step_pre_backward(splats, optimizers, state, step, drawn.info)
        image = drawn.rgb
        if weights is not None:  # what does not count is as it should be
            image = torch.lerp(photo.rgb, image, F.interpolate(weights[index], image.shape[-2:], mode="area"))
        splat_loss(image, photo.rgb, config.ssim_weight).backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay.step()
        _respect_cap(strategy, state, len(splats["means"]), config)
        strategy.step_post_backward(splats, optimizers, state, step, drawn.info)


def _optimizers(splats: torch.nn.ParameterDict, rates: LearningRates, scale: float) -> dict[str, torch.optim.Optimizer]:
    """Make one Adam per tensor, as gsplat's density control expects."""
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
    """Halve the resolution of a photo."""
    cameras = photo.cameras.resized(max(1, photo.cameras.width // 2), max(1, photo.cameras.height // 2))
    rgb, alpha, depth = (
        F.interpolate(image, size=(cameras.height, cameras.width), mode="area")
        for image in (photo.rgb, photo.alpha, photo.depth)
    )
    return Frames(rgb, alpha, depth, cameras)
