# SPDX-License-Identifier: Apache-2.0
"""Numbers, depth and points become pictures."""

from __future__ import annotations

from functools import cache
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.types import Cameras
from harmonizer_ns.warp import inverted, project

Colors = Literal["turbo", "magma", "seismic"]
_SEISMIC = ((0.0, 0.0, 0.3), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.5, 0.0, 0.0))
_FAR = 0.02
"""The nearest share of a picture's depth is drawn as the nearest color."""


def colored(values: Float[Tensor, "h w"], colors: Colors = "turbo") -> Float[Tensor, "3 h w"]:
    """Color numbers in [0, 1], on their device."""
    return _map(colors, str(values.device))[(values * 256).long().clamp(0, 255)].permute(2, 0, 1)


@cache
def _map(colors: Colors, device: str) -> Float[Tensor, "256 3"]:
    if colors == "seismic":
        at, knots = np.linspace(0, 1, 256), np.linspace(0, 1, len(_SEISMIC))
        table = np.stack([np.interp(at, knots, channel) for channel in zip(*_SEISMIC, strict=True)], axis=-1)
    else:
        kind = {"turbo": cv2.COLORMAP_TURBO, "magma": cv2.COLORMAP_MAGMA}[colors]
        table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], kind)[:, 0, ::-1] / 255
    return torch.tensor(np.ascontiguousarray(table), dtype=torch.float32, device=device)


def colored_depth(depth: Float[Tensor, "h w"]) -> Float[Tensor, "3 h w"]:
    """Color depth by its inverse, near in red and far in blue, black where it is 0 (unknown)."""
    inverse = inverted(depth)
    known = inverse[inverse > 0]
    top = known.quantile(1 - _FAR) if len(known) else inverse.new_ones(())
    return colored(inverse / top) * (inverse > 0)


def draw_points(points: Float[Tensor, "p 3"], colors: Float[Tensor, "p 3"], camera: Cameras) -> Float[Tensor, "3 h w"]:
    """Draw points as squares of 2x2 pixels, near ones before far ones, on black, on the CPU.

    Args:
        points: in the world.
        colors: in [0, 1].
        camera: a batch of one.
    """
    points, colors, camera = points.cpu(), colors.cpu(), camera.to("cpu")
    pixels, z = project(points[None], camera)
    (x, y), z = (pixels[0] - 0.5).floor().unbind(-1), z[0]
    order = z.argsort(stable=True)
    nearest = torch.full((camera.height * camera.width,), len(points))
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        u, v = (x + dx)[order], (y + dy)[order]
        shown = (z[order] > 0) & (u >= 0) & (v >= 0) & (u < camera.width) & (v < camera.height)
        place = (v * camera.width + u)[shown].long()
        nearest.scatter_reduce_(0, place, shown.nonzero()[:, 0], "amin")
    painted = torch.cat([colors[order], torch.zeros(1, 3)])
    return painted[nearest].T.reshape(3, camera.height, camera.width)
