# SPDX-License-Identifier: Apache-2.0
"""Camera poses and trajectories. Poses are camera-to-world with OpenCV axes (x right, y down, z forward), z is up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from harmonizer_ns.types import Cameras

Poses = Float[np.ndarray, "n 4 4"]


@dataclass(frozen=True)
class Lens:
    """A pinhole camera with its principal point in the centre.

    Args:
        width: image width in pixels.
        height: image height in pixels.
        focal: focal length in pixels, the same both ways.
    """

    width: int
    height: int
    focal: float

    def cameras(self, poses: Poses, dtype: torch.dtype = torch.float64) -> Cameras:
        """Place cameras of this lens."""
        matrix = [[self.focal, 0, self.width / 2], [0, self.focal, self.height / 2], [0, 0, 1]]
        intrinsics = torch.tensor(matrix, dtype=dtype).expand(len(poses), -1, -1)
        return Cameras(torch.from_numpy(poses).to(dtype), intrinsics, self.width, self.height)

    def degrees(self, pixels: int) -> float:
        """The field of view over so many pixels in the middle."""
        return float(np.degrees(2 * np.arctan(pixels / (2 * self.focal))))


def look_at(eye: Float[np.ndarray, "n 3"], target: Float[np.ndarray, "n 3"]) -> Poses:
    """Place upright cameras at ``eye`` that look at ``target`` (never straight up or down)."""
    eye, target = np.broadcast_arrays(np.asarray(eye, float), np.asarray(target, float))
    forward = target - eye
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(forward, np.array([0.0, 0.0, 1.0]))
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    poses = np.tile(np.eye(4), (len(eye), 1, 1))
    poses[:, :3, :3] = np.stack([right, np.cross(forward, right), forward], axis=-1)
    poses[:, :3, 3] = eye
    return poses


def polar(
    center: Float[np.ndarray, " 3"], azimuth: np.ndarray, radius: np.ndarray | float, height: np.ndarray | float
) -> Float[np.ndarray, "n 3"]:
    """Place points around a vertical axis through ``center``; azimuth in degrees from -y, heights absolute."""
    angle = np.radians(azimuth)
    x, y = center[0] + radius * np.sin(angle), center[1] - radius * np.cos(angle)
    return np.stack([x, y, np.broadcast_to(height, x.shape)], axis=-1)


def jitter(rng: np.random.Generator, points: Float[np.ndarray, "n 3"], amount: float) -> Float[np.ndarray, "n 3"]:
    """Add smooth wander and small shake, as of a hand-held camera; ``amount`` in metres."""
    t = np.linspace(0, 1, len(points))[:, None]
    wander = sum(rng.standard_normal(3) * np.sin(2 * np.pi * k * t + rng.uniform(0, 6)) / k for k in (1, 2, 3))
    return points + amount * (0.5 * wander + 0.12 * rng.standard_normal(points.shape))
