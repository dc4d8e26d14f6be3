# SPDX-License-Identifier: Apache-2.0
"""Gaussians are held under gsplat's names, and training begins with those made here.

``means`` n 3, ``scales`` n 3 (log), ``quats`` n 4 (w x y z), ``opacities`` n (logit), ``sh0`` n 1 3, ``shN`` n k 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from harmonizer_ns.errors import InputError

NAMES = ("means", "scales", "quats", "opacities", "sh0", "shN")
SPLATFACTO = {name: name for name in NAMES} | {"sh0": "features_dc", "shN": "features_rest"}
"""Names of the same parameters in nerfstudio's splatfacto."""
SH_C0 = 0.28209479177387814
"""The constant spherical harmonic, ``1 / (2 sqrt(pi))``."""
MIN_POINTS = 4
"""Each Gaussian is sized by its three nearest neighbours."""
_THICKNESS = 0.3
"""Gaussians that lie on a surface are so thick, in units of their width: at 0.1 held-out PSNR and SSIM are lower, and
round ones are level in PSNR but lower in SSIM (two scenes)."""

Splats = Mapping[str, Tensor]


def from_splatfacto(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gaussians from parameters with splatfacto's names and shapes (``opacities`` n 1, ``features_dc`` n 3)."""
    splats = {name: parameters[theirs] for name, theirs in SPLATFACTO.items()}
    return splats | {"sh0": splats["sh0"][:, None], "opacities": splats["opacities"].flatten()}


def to_splatfacto(splats: Splats) -> dict[str, Tensor]:
    """Parameters with splatfacto's names and shapes from Gaussians."""
    shaped = {**splats, "sh0": splats["sh0"][:, 0], "opacities": splats["opacities"][:, None]}
    return {theirs: shaped[name] for name, theirs in SPLATFACTO.items()}


def check_splats(splats: Splats, source: Any) -> None:
    """Refuse tensors whose shapes are not those of Gaussians.

    Args:
        splats: tensors with these names.
        source: where they came from, for messages.

    Raises:
        InputError: naming the source, the tensor and its shape.
    """
    count = len(splats["means"])
    rest = splats["shN"].shape[1] if splats["shN"].ndim > 1 else 0
    shapes = {"means": (3,), "scales": (3,), "quats": (4,), "opacities": (), "sh0": (1, 3), "shN": (rest, 3)}
    for name, shape in shapes.items():
        if tuple(splats[name].shape) != (count, *shape):
            raise InputError(f"{source}: {name} has shape {tuple(splats[name].shape)}, expected {(count, *shape)}")
    if math.isqrt(rest + 1) ** 2 != rest + 1 or rest > 15:
        raise InputError(f"{source}: {rest} view-dependent colour coefficients, expected 0, 3, 8 or 15")


def seed_splats(
    points: Float[Tensor, "p 3"],
    colors: Float[Tensor, "p 3"],
    degree: int,
    opacity: float = 0.1,
    scale: float = 1.0,
    quats: Float[Tensor, "p 4"] | None = None,
    normals: Float[Tensor, "p 3"] | None = None,
) -> dict[str, Tensor]:
    """Make one Gaussian per seed point, as wide as the distance to its three nearest neighbours.

    It is round, or lies flat on its surface where the surface's normal is known.

    Args:
        points: at least `MIN_POINTS`.
        colors: in [0, 1].
        degree: of the view-dependent colour, which begins at none.
        opacity: to begin with.
        scale: factor on the width.
        quats: rotations, which tell once the Gaussians are no longer round; None turns none.
        normals: of unit length, zero where unknown; None knows none.
    """
    count = len(points)
    scales = (neighbour_distance(points) * scale).log()[:, None].repeat(1, 3)
    quats = points.new_tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1) if quats is None else quats
    if normals is not None:
        flat = normals.norm(dim=-1) > 0
        scales[flat, 2] += math.log(_THICKNESS)
        quats = torch.where(flat[:, None], turned_to(normals), quats)
    return {
        "means": points.clone(),
        "scales": scales,
        "quats": quats,
        "opacities": torch.logit(points.new_full((count,), opacity)),
        "sh0": base_harmonics(colors),
        "shN": points.new_zeros(count, (degree + 1) ** 2 - 1, 3),
    }


def turned_to(normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 4"]:
    """Find the shortest rotations that bring the third axis to unit vectors.

    ``q = (1 + z . n, z x n)`` up to its length; half a turn about the first axis where ``n`` is ``-z``.
    """
    x, y, z = normals.unbind(-1)
    quats = torch.stack([1 + z, -y, x, torch.zeros_like(x)], dim=-1)
    opposite = (quats.norm(dim=-1, keepdim=True) < 1e-6) & (z[:, None] < 0)
    return normalize(torch.where(opposite, quats.new_tensor([0.0, 1.0, 0.0, 0.0]), quats), dim=-1)


def neighbour_distance(points: Float[Tensor, "p 3"]) -> Float[Tensor, " p"]:
    """Measure the RMS distance to the three nearest other points, at least a millionth of the cloud's size."""
    from scipy.spatial import KDTree

    cloud = points.detach().cpu().double().numpy()
    distances, _ = KDTree(cloud).query(cloud, k=4)
    spacing = torch.from_numpy((distances[:, 1:] ** 2).mean(axis=1) ** 0.5)
    floor = 1e-6 * (points.amax(dim=0) - points.amin(dim=0)).norm().item()
    return spacing.clamp(min=max(floor, 1e-9)).to(points)


def parameters(splats: Splats, device: torch.device) -> torch.nn.ParameterDict:
    """Copy the splats into parameters on a device."""
    values = {name: splats[name].detach().to(device).float().clone() for name in NAMES}
    return torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in values.items()})


def degree_of(splats: Splats) -> int:
    """Tell the degree of the view-dependent colour."""
    return math.isqrt(splats["shN"].shape[1] + 1) - 1


def base_harmonics(colors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 1 3"]:
    """Turn colours into the ``sh0`` of Gaussians that look the same from everywhere."""
    return ((colors - 0.5) / SH_C0)[:, None]


def base_colors(splats: Splats) -> Float[Tensor, "n 3"]:
    """Turn ``sh0`` into colours, without what depends on the view."""
    return 0.5 + SH_C0 * splats["sh0"][:, 0]


def chosen(splats: Splats, rows: Tensor) -> dict[str, Tensor]:
    """Take some of the Gaussians, by mask or index."""
    return {name: splats[name][rows] for name in NAMES}
