# SPDX-License-Identifier: Apache-2.0
"""Seed points like those of structure from motion: on texture, seen by two cameras or more, not quite exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from harmonizer_ns.synthesis.scenes.cameras import Lens, Poses, project


@dataclass(frozen=True)
class SeedPoints:
    """A coloured point cloud.

    Args:
        positions: world positions in metres.
        colors: sRGB, 8 bits.
        tracks: for each point the indices of the photos that see it.
    """

    positions: Float[np.ndarray, "p 3"]
    colors: UInt8[np.ndarray, "p 3"]
    tracks: list[list[int]]


def find_seed_points(
    rng: np.random.Generator,
    photos: list[UInt8[np.ndarray, "h w 3"]],
    surfaces: list[Float[np.ndarray, "h w 3"]],
    poses: Poses,
    lens: Lens,
    count: int,
) -> SeedPoints:
    """Pick about ``count`` points.

    Args:
        rng: source of randomness.
        photos: the training photos.
        surfaces: for each photo the surface point inside each pixel, nan where there is none.
        poses: their cameras (OpenCV axes).
        lens: their intrinsics.
        count: upper bound of the number of points.
    """
    picked = np.concatenate(
        [_corners(rng, p, s, 2 * count // len(photos) + 1) for p, s in zip(photos, surfaces, strict=True)]
    )
    seen, colors = _look(picked, photos, surfaces, poses, lens)
    kept = np.flatnonzero(seen.sum(axis=1) >= 2)
    kept = np.sort(rng.permutation(kept)[:count])
    seen, colors, picked = seen[kept], colors[kept], picked[kept]
    distance = np.linalg.norm(picked - poses[:, :3, 3].mean(axis=0), axis=1, keepdims=True)
    positions = picked + 0.4 * distance / lens.focal * rng.standard_normal(picked.shape)
    mean = (colors * seen[..., None]).sum(axis=1) / seen.sum(axis=1, keepdims=True)
    return SeedPoints(positions, (mean + 0.5).astype(np.uint8), [np.flatnonzero(row).tolist() for row in seen])


def _corners(
    rng: np.random.Generator, photo: UInt8[np.ndarray, "h w 3"], surface: Float[np.ndarray, "h w 3"], count: int
) -> Float[np.ndarray, "p 3"]:
    """Surface points at random pixels, the likelier the stronger the image gradient."""
    gray = photo.mean(axis=-1)
    weight = np.hypot(*np.gradient(gray)) * np.isfinite(surface).all(axis=-1)
    weight = np.minimum(weight, 30).ravel() + 1e-9
    weight[~np.isfinite(surface).all(axis=-1).ravel()] = 0
    if not weight.any():
        return np.empty((0, 3))
    count = min(count, int((weight > 0).sum()))
    return surface.reshape(-1, 3)[rng.choice(weight.size, count, replace=False, p=weight / weight.sum())]


def _look(
    points: Float[np.ndarray, "p 3"],
    photos: list[UInt8[np.ndarray, "h w 3"]],
    surfaces: list[Float[np.ndarray, "h w 3"]],
    poses: Poses,
    lens: Lens,
) -> tuple[Bool[np.ndarray, "p n"], Float[np.ndarray, "p n 3"]]:
    """Which photos see each point, and in which colour: the point lies on the surface that the pixel shows."""
    seen = np.zeros((len(points), len(photos)), dtype=bool)
    colors = np.zeros((len(points), len(photos), 3))
    for i, (photo, surface, pose) in enumerate(zip(photos, surfaces, poses, strict=True)):
        pixels, depth = project(points, pose, lens.matrix)
        inside = (pixels >= 0).all(axis=1) & (pixels < [lens.width, lens.height]).all(axis=1)
        x, y = np.where(inside[:, None], pixels, 0).astype(int).T
        shown = (surface[y, x] - pose[:3, 3]) @ pose[:3, 2]
        seen[:, i] = inside & (np.abs(shown - depth) < 0.015 * depth)
        colors[:, i] = photo[y, x]
    return seen, colors
