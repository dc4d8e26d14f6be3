# SPDX-License-Identifier: Apache-2.0
# Arguments of numba kernels are unpacked from tuples, and intrinsics hide their first argument.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
"""View-dependent colour from real spherical harmonics up to degree 3, forward and backward.

The colour of a Gaussian with coefficients ``h_k`` seen along the unit direction ``d`` is
``max(0, 1/2 + sum_k Y_k(d) h_k)``, with the basis of the 3D Gaussian Splatting paper (Kerbl et al. 2023).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from torch import Tensor

from harmonizer_ns.raster.threads import parallel_chunks

CHUNK = 2048
MAX_DEGREE = 3


@njit(cache=True, error_model="numpy", nogil=True)
def _basis(degree, x, y, z, out):
    """``Y_k`` at a unit direction."""
    out[0] = 0.2820947917738781
    if degree > 0:
        out[1], out[2], out[3] = -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x
    if degree > 1:
        out[4], out[5] = 1.0925484305920792 * x * y, -1.0925484305920792 * y * z
        out[6] = 0.9461746957575601 * z * z - 0.3153915652525201
        out[7], out[8] = -1.0925484305920792 * x * z, 0.5462742152960396 * (x * x - y * y)
    if degree > 2:
        ring = 0.4570457994644658 - 2.285228997322329 * z * z
        out[9], out[15] = -0.5900435899266435 * y * (3 * x * x - y * y), -0.5900435899266435 * x * (x * x - 3 * y * y)
        out[10], out[14] = 2.890611442640554 * x * y * z, 1.445305721320277 * z * (x * x - y * y)
        out[11], out[13] = ring * y, ring * x
        out[12] = z * (1.865881662950577 * z * z - 1.119528997770346)


@njit(cache=True, error_model="numpy", nogil=True)
def _direction_gradient(degree, x, y, z, v):
    """``sum_k v_k dY_k / d(x, y, z)`` (before the projection to the tangent of the sphere)."""
    gx = gy = gz = 0.0
    if degree > 0:
        gx, gy, gz = -0.4886025119029199 * v[3], -0.4886025119029199 * v[1], 0.4886025119029199 * v[2]
    if degree > 1:
        gx += 1.0925484305920792 * (y * v[4] - z * v[7] + x * v[8])
        gy += 1.0925484305920792 * (x * v[4] - z * v[5] - y * v[8])
        gz += 1.8923493915151202 * z * v[6] - 1.0925484305920792 * (y * v[5] + x * v[7])
    if degree > 2:
        ring = 0.4570457994644658 - 2.285228997322329 * z * z
        difference = 3 * (x * x - y * y)
        gx += -0.5900435899266435 * (6 * x * y * v[9] + difference * v[15])
        gx += 2.890611442640554 * z * (y * v[10] + x * v[14]) + ring * v[13]
        gy += -0.5900435899266435 * (difference * v[9] - 6 * x * y * v[15])
        gy += 2.890611442640554 * z * (x * v[10] - y * v[14]) + ring * v[11]
        gz += 2.890611442640554 * x * y * v[10] + 1.445305721320277 * (x * x - y * y) * v[14]
        gz += -4.570457994644658 * z * (y * v[11] + x * v[13]) + (5.597644988851731 * z * z - 1.119528997770346) * v[12]
    return gx, gy, gz


@njit(cache=True, error_model="numpy", nogil=True)
def _view_direction(degree, means, centers, c, g):
    """Unit vector from the camera to the Gaussian, and 1 / distance; zeros where they coincide, or degree is 0."""
    if degree == 0:
        return 0.0, 0.0, 0.0, 0.0
    x, y, z = means[g, 0] - centers[c, 0], means[g, 1] - centers[c, 1], means[g, 2] - centers[c, 2]
    norm = math.sqrt(x * x + y * y + z * z)
    inv = 1.0 / norm if norm > 0.0 else 0.0
    return x * inv, y * inv, z * inv, inv


@njit(cache=True, error_model="numpy", nogil=True)
def _colors_chunk(begin, end, degree, means, centers, coeffs, rows, colors):
    """Colours of the Gaussians ``begin`` to ``end`` in all cameras."""
    basis = np.zeros(16)
    terms = (degree + 1) ** 2
    for c in range(rows.shape[0]):
        own = coeffs[min(c, coeffs.shape[0] - 1)]
        for g in range(begin, end):
            row = rows[c, g]
            if row < 0:
                continue
            x, y, z, _ = _view_direction(degree, means, centers, c, g)
            _basis(degree, x, y, z, basis)
            red = green = blue = 0.5
            for k in range(terms):
                red += basis[k] * own[g, k, 0]
                green += basis[k] * own[g, k, 1]
                blue += basis[k] * own[g, k, 2]
            colors[row, 0], colors[row, 1], colors[row, 2] = max(red, 0.0), max(green, 0.0), max(blue, 0.0)


@njit(cache=True, error_model="numpy", nogil=True)
def _backward_chunk(begin, end, degree, means, centers, coeffs, rows, colors, v_colors, v_means, v_centers, v_coeffs):
    """Backward of `_colors_chunk`; ``v_centers`` is this chunk's own."""
    basis, weights = np.zeros(16), np.zeros(16)
    terms = (degree + 1) ** 2
    for g in range(begin, end):
        for c in range(rows.shape[0]):
            row = rows[c, g]
            if row < 0:
                continue
            which = min(c, coeffs.shape[0] - 1)
            red = v_colors[row, 0] if colors[row, 0] > 0 else np.float32(0)
            green = v_colors[row, 1] if colors[row, 1] > 0 else np.float32(0)
            blue = v_colors[row, 2] if colors[row, 2] > 0 else np.float32(0)
            if red == 0 and green == 0 and blue == 0:
                continue
            x, y, z, inv = _view_direction(degree, means, centers, c, g)
            _basis(degree, x, y, z, basis)
            own, v_own = coeffs[which, g], v_coeffs[which, g]
            for k in range(terms):
                weights[k] = red * own[k, 0] + green * own[k, 1] + blue * own[k, 2]
                b = np.float32(basis[k])
                v_own[k, 0] += b * red
                v_own[k, 1] += b * green
                v_own[k, 2] += b * blue
            gx, gy, gz = _direction_gradient(degree, x, y, z, weights)
            along = gx * x + gy * y + gz * z
            step = ((gx - along * x) * inv, (gy - along * y) * inv, (gz - along * z) * inv)
            for i in range(3):
                v_means[g, i] += np.float32(step[i])
                v_centers[c, i] -= step[i]


class _Harmonics(torch.autograd.Function):
    @staticmethod
    def forward(ctx, degree, means, centers, coeffs, rows, shape):
        inputs = (
            degree, means.detach().contiguous().numpy(), centers.detach().double().contiguous().numpy(),
            coeffs.detach().contiguous().numpy(), rows.numpy(),
        )  # fmt: skip
        colors = np.zeros((math.prod(shape), 3), np.float32)
        parallel_chunks(lambda b, e: _colors_chunk(b, e, *inputs, colors), rows.shape[1], CHUNK)
        ctx.inputs, ctx.colors = inputs, colors
        return torch.from_numpy(colors.reshape(*shape, 3))

    @staticmethod
    def backward(ctx, v_colors):
        _, means, centers, coeffs, _rows = ctx.inputs
        v_colors = v_colors.detach().reshape(-1, 3).contiguous().numpy()
        v_means, v_coeffs = np.zeros_like(means), np.zeros_like(coeffs)
        parts = np.zeros((-(-means.shape[0] // CHUNK), *centers.shape))

        def task(begin: int, end: int) -> None:
            part = parts[begin // CHUNK]
            _backward_chunk(begin, end, *ctx.inputs, ctx.colors, v_colors, v_means, part, v_coeffs)

        parallel_chunks(task, means.shape[0], CHUNK)
        results = (v_means, parts.sum(axis=0).astype(np.float32), v_coeffs)
        return (None, *(torch.from_numpy(array) for array in results), None, None)


def harmonic_colors(
    degree: int,
    means: Float[Tensor, "n 3"],
    centers: Float[Tensor, "c 3"],
    coeffs: Float[Tensor, "cameras n k 3"],
    rows: Int[Tensor, "c n"],
    shape: tuple[int, ...],
) -> Float[Tensor, "*rows 3"]:
    """RGB of every projected row.

    Args:
        degree: 0 to 3; bands above it in ``coeffs`` are ignored.
        means: Gaussian means, world space.
        centers: camera centres, world space.
        coeffs: coefficients, one set (``cameras`` = 1) or one per camera.
        rows: where each (camera, Gaussian) lives, -1 for culled ones, whose colour is 0.
        shape: the shape of the projected rows.

    Raises:
        ValueError: for a degree outside 0 to 3.
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"The CPU rasterizer evaluates spherical harmonics of degree 0 to {MAX_DEGREE}, got {degree}")
    return _Harmonics.apply(degree, means, centers, coeffs, rows, shape)
