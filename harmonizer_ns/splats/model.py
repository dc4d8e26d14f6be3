# SPDX-License-Identifier: Apache-2.0
"""Gaussians as gsplat's trainer keeps them: seeding, optimizers, and Adam for what a step shows.

``means`` n 3, ``scales`` n 3 (log), ``quats`` n 4 (w x y z), ``opacities`` n (logit), ``sh0`` n 1 3, ``shN`` n k 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gsplat_trainer.config import Config
from harmonizer_ns.captures.capture import Scene
from harmonizer_ns.errors import InputError

NAMES = ("means", "scales", "quats", "opacities", "sh0", "shN")
SH_C0 = 0.28209479177387814
"""The constant spherical harmonic, ``1 / (2 sqrt(pi))``."""
MIN_POINTS = 4
"""Each Gaussian is sized by its three nearest neighbours."""

Splats = torch.nn.ParameterDict


def seed_splats(config: Config, scene: Scene, generator: torch.Generator) -> dict[str, Tensor]:
    """One round Gaussian per seed point, as wide as the distance to its three nearest neighbours.

    Raises:
        InputError: when the capture has too few points for ``init_type sfm``.
    """
    points, colors = scene.points, scene.colors
    if config.init_type == "random":
        cube = torch.rand(config.init_num_pts, 3, generator=generator) * 2 - 1
        points = config.init_extent * scene.extent * config.global_scale * cube
        colors = torch.rand(config.init_num_pts, 3, generator=generator)
    if len(points) < MIN_POINTS:
        raise InputError(
            f"{scene.name} has {len(points)} seed points, at least {MIN_POINTS} are needed; use --init_type random"
        )
    count = len(points)
    return {
        "means": points.clone(),
        "scales": (neighbour_distance(points) * config.init_scale).log()[:, None].repeat(1, 3),
        "quats": torch.rand(count, 4, generator=generator),
        "opacities": torch.logit(torch.full((count,), config.init_opa)),
        "sh0": ((colors - 0.5) / SH_C0)[:, None],
        "shN": torch.zeros(count, (config.sh_degree + 1) ** 2 - 1, 3),
    }


def neighbour_distance(points: Float[Tensor, "p 3"]) -> Float[Tensor, " p"]:
    """Root mean square distance to the three nearest other points, at least a millionth of the cloud's size."""
    from scipy.spatial import KDTree

    cloud = points.double().numpy()
    distances, _ = KDTree(cloud).query(cloud, k=4)
    spacing = torch.from_numpy((distances[:, 1:] ** 2).mean(axis=1) ** 0.5)
    floor = 1e-6 * (points.amax(dim=0) - points.amin(dim=0)).norm().item()
    return spacing.clamp(min=max(floor, 1e-9)).to(points)


def parameters(splats: Mapping[str, Tensor], device: torch.device) -> Splats:
    """The splats as parameters on a device."""
    return Splats({name: torch.nn.Parameter(splats[name].detach().to(device).float().clone()) for name in NAMES})


def degree_of(splats: Any) -> int:
    """Degree of the view-dependent colour."""
    return math.isqrt(splats["shN"].shape[1] + 1) - 1


class VisibleAdam(torch.optim.Adam):
    """Adam (Kingma and Ba 2015) that touches only the rows marked in ``visible``; None means all."""

    visible: Bool[Tensor, " n"] | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of the visible rows; moments of the others rest."""
        for group in self.param_groups:
            (value,) = group["params"]
            if value.grad is None:
                continue
            state = self.state[value]
            if not state:
                state.update(
                    step=torch.tensor(0.0), exp_avg=torch.zeros_like(value), exp_avg_sq=torch.zeros_like(value)
                )
            state["step"] += 1
            rows = slice(None) if self.visible is None else self.visible.nonzero()[:, 0]
            _adam_rows(value, state, rows, group)


def _adam_rows(value: Tensor, state: dict[str, Tensor], rows: Any, group: dict[str, Any]) -> None:
    beta1, beta2 = group["betas"]
    count, gradient = float(state["step"]), value.grad[rows]  # type: ignore[index]
    mean = state["exp_avg"][rows].lerp(gradient, 1 - beta1)
    square = state["exp_avg_sq"][rows].lerp(gradient.square(), 1 - beta2)
    state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
    denominator = (square / (1 - beta2**count)).sqrt() + group["eps"]
    value[rows] -= group["lr"] * mean / (1 - beta1**count) / denominator


def learning_rates(config: Config, extent: float) -> dict[str, float]:
    """Step sizes before the batch counts."""
    rates = {name: getattr(config, f"{name}_lr") for name in NAMES}
    return rates | {"means": config.means_lr * extent * config.global_scale}


def make_optimizers(splats: Splats, config: Config, extent: float, world_size: int) -> dict[str, torch.optim.Optimizer]:
    """One optimizer per tensor, as density control expects; rates follow the square root of the batch."""
    batch = config.batch_size * world_size
    kind: Any = torch.optim.SparseAdam if config.sparse_grad else torch.optim.Adam
    options: dict[str, Any] = {} if config.sparse_grad else {"fused": True}
    if config.visible_adam:
        kind, options = VisibleAdam, {}
    options |= {"eps": 1e-15 / math.sqrt(batch), "betas": (1 - batch * (1 - 0.9), 1 - batch * (1 - 0.999))}
    rates = learning_rates(config, extent)
    return {name: kind([splats[name]], lr=rates[name] * math.sqrt(batch), **options) for name in NAMES}


def set_means_rate(optimizers: dict[str, torch.optim.Optimizer], start: float, progress: float) -> None:
    """Exponential decay to a hundredth; a function of the step alone, so that resumed runs agree."""
    optimizers["means"].param_groups[0]["lr"] = start * 0.01**progress
