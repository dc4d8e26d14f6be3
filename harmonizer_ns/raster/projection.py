# SPDX-License-Identifier: Apache-2.0
# Arguments of numba kernels are unpacked from tuples, and intrinsics hide their first argument.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
"""EWA projection of 3D Gaussians to the image plane, forward and backward (Zwicker et al., EWA Splatting, 2001).

Notation: a Gaussian has mean ``m`` and covariance ``S = Q diag(s)^2 Q^T``; a camera maps ``m`` to ``p = R m + t``
and has focal lengths ``f``. ``J`` is the Jacobian of the perspective division at ``p`` (with ``p`` clamped to 1.3
times the field of view), ``M = J R``, and the image covariance is ``A = M S M^T + eps2d I`` with inverse (conic)
``A^-1``. Inputs and outputs are float32, everything between is float64: it is cheap next to the pixels.

A ``row`` is one projected Gaussian: ``camera * N + gaussian`` in the dense layout, or its rank among the visible
ones in the packed layout. ``rows[camera, gaussian]`` holds it, -1 where the Gaussian is culled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from harmonizer_ns.raster.projection_kernels import backward_chunk, project_chunk
from harmonizer_ns.raster.threads import parallel_chunks

CHUNK = 2048


@dataclass(frozen=True)
class ProjectionSettings:
    """What the projection needs to know besides tensors; sizes and radii in pixels, planes in scene units."""

    width: int
    height: int
    eps2d: float
    near_plane: float
    far_plane: float
    radius_clip: float
    packed: bool


def _array(tensor: Tensor | None, columns: int) -> np.ndarray:
    """The tensor's memory, or an empty stand-in so that the kernels keep one signature."""
    return np.zeros((0, columns), np.float32) if tensor is None else tensor.detach().contiguous().numpy()


def _row_map(radii: np.ndarray, packed: bool) -> np.ndarray:
    """``rows[camera, gaussian]``, see the module's docstring."""
    visible = radii > 0
    ranks = np.cumsum(visible, dtype=np.int32) - 1 if packed else np.arange(radii.size, dtype=np.int32)
    return np.where(visible, ranks.reshape(radii.shape), np.int32(-1)).astype(np.int32)


def _clamp_limits(intrinsics: np.ndarray, width: float, height: float) -> np.ndarray:
    """Lowest and highest ``x / z``, then ``y / z``, of each camera: 15% of the image beyond its edges."""
    f, center = intrinsics[:, (0, 1), (0, 1)], intrinsics[:, :2, 2]
    size = np.array([width, height])
    low, high = -center - 0.15 * size, size - center + 0.15 * size
    return np.stack([low / f, high / f], axis=-1).reshape(-1, 4)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, covars, viewmats, intrinsics, settings):
        matrices = intrinsics.detach().double().contiguous().numpy()
        inputs = (
            _array(means, 3), _array(quats, 4), _array(scales, 3), _array(covars, 6), covars is not None,
            viewmats.detach().double().contiguous().numpy(), matrices,
            _clamp_limits(matrices, settings.width, settings.height),
        )  # fmt: skip
        shape = (viewmats.shape[0], means.shape[0])
        radii = np.zeros(shape, np.int32)
        outputs = [np.zeros((*shape, *tail), np.float32) for tail in ((2,), (), (3,), ())]
        size = (float(settings.width), float(settings.height))
        planes = (float(settings.near_plane), float(settings.far_plane))
        limits = (size, planes, float(settings.eps2d), float(settings.radius_clip))
        parallel_chunks(lambda b, e: project_chunk(b, e, *inputs, *limits, radii, *outputs), shape[1], CHUNK)
        rows = _row_map(radii, settings.packed)
        if settings.packed:
            visible = radii > 0
            radii, outputs = radii[visible], [output[visible] for output in outputs]
        ctx.inputs, ctx.rows, ctx.eps2d = inputs, rows, float(settings.eps2d)
        tensors = [torch.from_numpy(array) for array in (radii, *outputs, rows)]
        ctx.mark_non_differentiable(tensors[0], tensors[-1])
        return tuple(tensors)

    @staticmethod
    def backward(ctx, _radii, v_means2d, v_depths, v_conics, v_compensations, _rows):
        means, views = ctx.inputs[0], ctx.inputs[5]
        incoming = [
            v.detach().reshape(-1, *tail).contiguous().numpy()
            for v, tail in ((v_means2d, (2,)), (v_depths, ()), (v_conics, (3,)), (v_compensations, ()))
        ]
        grads = [np.zeros(array.shape, np.float32) for array in ctx.inputs[:4]]
        parts = np.zeros((-(-means.shape[0] // CHUNK), views.shape[0], 4, 4))
        want_views = ctx.needs_input_grad[4]

        def task(begin: int, end: int) -> None:
            backward_chunk(
                begin, end, *ctx.inputs, ctx.eps2d, ctx.rows, *incoming, *grads, parts[begin // CHUNK],
                want_views,
            )  # fmt: skip

        parallel_chunks(task, means.shape[0], CHUNK)
        results = [torch.from_numpy(array) for array in (*grads, parts.sum(axis=0).astype(np.float32))]
        wanted = [result if need else None for result, need in zip(results, ctx.needs_input_grad, strict=False)]
        return (*wanted, None, None)


def project(
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"] | None,
    scales: Float[Tensor, "n 3"] | None,
    covars: Float[Tensor, "n 6"] | None,
    viewmats: Float[Tensor, "c 4 4"],
    intrinsics: Float[Tensor, "c 3 3"],
    settings: ProjectionSettings,
) -> tuple[
    Int[Tensor, "*rows"],
    Float[Tensor, "*rows 2"],
    Float[Tensor, "*rows"],
    Float[Tensor, "*rows 3"],
    Float[Tensor, "*rows"],
    Int[Tensor, "c n"],
]:
    """Project Gaussians into cameras; all inputs float32 on the CPU.

    Returns:
        radii (pixels, 0 where culled), means2d (pixels), z-depths, conics (xx, xy, yy), compensations (the
        Mip-Splatting factor ``sqrt(det(A - eps2d I) / det A)``) and ``rows``. The shape of ``*rows`` is ``c n`` or,
        packed, the number of visible pairs, ordered by camera, then Gaussian. Gaussians with non-finite parameters
        are culled.
    """
    return _Project.apply(means, quats, scales, covars, viewmats, intrinsics, settings)
