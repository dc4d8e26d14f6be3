# SPDX-License-Identifier: Apache-2.0
"""Kernels of the EWA projection, forward and backward; the notation is that of `harmonizer_ns.raster.projection`.

Symmetric 3x3 matrices are tuples (xx, xy, xz, yy, yz, zz), 2x3 ones row-major tuples of six.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

MAX_RADIUS = float(1 << 30)
OPTIONS = {"cache": True, "error_model": "numpy", "nogil": True, "fastmath": {"contract"}}


@njit(**OPTIONS)
def _rotation(quats, use_covars, g):
    """The rotation of the normalised quaternion (w, x, y, z), row-major, with the quaternion and 1 / its norm.

    With covariances there is none, and zeros stand for it.
    """
    if use_covars:
        return (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    w, x, y, z = np.float64(quats[g, 0]), np.float64(quats[g, 1]), np.float64(quats[g, 2]), np.float64(quats[g, 3])
    inv = 1.0 / math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * inv, x * inv, y * inv, z * inv
    return (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        w, x, y, z, inv,
    )  # fmt: skip


@njit(**OPTIONS)
def _covariance(q, scales, covars, use_covars, g):
    """Upper triangle (xx, xy, xz, yy, yz, zz) of the world covariance; ``q`` is its rotation."""
    if use_covars:
        return (
            np.float64(covars[g, 0]), np.float64(covars[g, 1]), np.float64(covars[g, 2]),
            np.float64(covars[g, 3]), np.float64(covars[g, 4]), np.float64(covars[g, 5]),
        )  # fmt: skip
    a, b, c = np.float64(scales[g, 0]) ** 2, np.float64(scales[g, 1]) ** 2, np.float64(scales[g, 2]) ** 2
    return (
        a * q[0] * q[0] + b * q[1] * q[1] + c * q[2] * q[2],
        a * q[0] * q[3] + b * q[1] * q[4] + c * q[2] * q[5],
        a * q[0] * q[6] + b * q[1] * q[7] + c * q[2] * q[8],
        a * q[3] * q[3] + b * q[4] * q[4] + c * q[5] * q[5],
        a * q[3] * q[6] + b * q[4] * q[7] + c * q[5] * q[8],
        a * q[6] * q[6] + b * q[7] * q[7] + c * q[8] * q[8],
    )


@njit(**OPTIONS)
def _to_camera(means, views, c, g):
    """``p = R m + t``."""
    x, y, z = np.float64(means[g, 0]), np.float64(means[g, 1]), np.float64(means[g, 2])
    return (
        views[c, 0, 0] * x + views[c, 0, 1] * y + views[c, 0, 2] * z + views[c, 0, 3],
        views[c, 1, 0] * x + views[c, 1, 1] * y + views[c, 1, 2] * z + views[c, 1, 3],
        views[c, 2, 0] * x + views[c, 2, 1] * y + views[c, 2, 2] * z + views[c, 2, 3],
    )


@njit(**OPTIONS)
def _jacobian(px, py, inv_z, intrinsics, limits, c):
    """``J`` as (J00, J02, J11, J12), and whether x and y lie inside the clamp."""
    fx, fy = intrinsics[c, 0, 0] * inv_z, intrinsics[c, 1, 1] * inv_z
    x, y = px * inv_z, py * inv_z
    tx = min(limits[c, 1], max(limits[c, 0], x))
    ty = min(limits[c, 3], max(limits[c, 2], y))
    return fx, -fx * tx, fy, -fy * ty, tx == x, ty == y


@njit(**OPTIONS)
def _image_map(j, views, c):
    """``M = J R``, row-major 2x3."""
    return (
        j[0] * views[c, 0, 0] + j[1] * views[c, 2, 0],
        j[0] * views[c, 0, 1] + j[1] * views[c, 2, 1],
        j[0] * views[c, 0, 2] + j[1] * views[c, 2, 2],
        j[2] * views[c, 1, 0] + j[3] * views[c, 2, 0],
        j[2] * views[c, 1, 1] + j[3] * views[c, 2, 1],
        j[2] * views[c, 1, 2] + j[3] * views[c, 2, 2],
    )


@njit(**OPTIONS)
def _map_covariance(m, s):
    """``M S``, row-major 2x3."""
    return (
        m[0] * s[0] + m[1] * s[1] + m[2] * s[2],
        m[0] * s[1] + m[1] * s[3] + m[2] * s[4],
        m[0] * s[2] + m[1] * s[4] + m[2] * s[5],
        m[3] * s[0] + m[4] * s[1] + m[5] * s[2],
        m[3] * s[1] + m[4] * s[3] + m[5] * s[4],
        m[3] * s[2] + m[4] * s[4] + m[5] * s[5],
    )


@njit(**OPTIONS)
def _image_covariance(m, ms):
    """Upper triangle of ``M S M^T``."""
    return (
        ms[0] * m[0] + ms[1] * m[1] + ms[2] * m[2],
        ms[0] * m[3] + ms[1] * m[4] + ms[2] * m[5],
        ms[3] * m[3] + ms[4] * m[4] + ms[5] * m[5],
    )


@njit(**OPTIONS)
def _radius(xx, yy, det):
    """Three standard deviations along the longer axis, in whole pixels."""
    middle = 0.5 * (xx + yy)
    return math.ceil(3.0 * math.sqrt(middle + math.sqrt(max(0.01, middle * middle - det))))


@njit(**OPTIONS)
def project_chunk(
    begin, end, means, quats, scales, covars, use_covars, views, intrinsics, limits, size, planes, eps2d, radius_clip,
    radii, means2d, depths, conics, compensations,
):  # fmt: skip
    """Project the Gaussians ``begin`` to ``end`` into every camera; what is culled keeps zeros."""
    width, height = size
    for c in range(views.shape[0]):
        for g in range(begin, end):
            px, py, pz = _to_camera(means, views, c, g)
            if not (pz >= planes[0] and pz <= planes[1] and pz > 0.0):
                continue
            inv_z = 1.0 / pz
            m = _image_map(_jacobian(px, py, inv_z, intrinsics, limits, c), views, c)
            q = _rotation(quats, use_covars, g)
            cov = _image_covariance(m, _map_covariance(m, _covariance(q, scales, covars, use_covars, g)))
            xx, xy, yy = cov[0] + eps2d, cov[1], cov[2] + eps2d
            det = xx * yy - xy * xy
            if not (det > 0.0 and det < np.inf):
                continue
            radius = min(_radius(xx, yy, det), MAX_RADIUS)
            u = intrinsics[c, 0, 0] * px * inv_z + intrinsics[c, 0, 2]
            v = intrinsics[c, 1, 1] * py * inv_z + intrinsics[c, 1, 2]
            if not (
                radius > radius_clip
                and u + radius > 0.0 and u - radius < width
                and v + radius > 0.0 and v - radius < height
            ):  # fmt: skip
                continue
            radii[c, g] = np.int32(radius)
            means2d[c, g, 0], means2d[c, g, 1], depths[c, g] = u, v, pz
            inv = 1.0 / det
            conics[c, g, 0], conics[c, g, 1], conics[c, g, 2] = yy * inv, -xy * inv, xx * inv
            compensations[c, g] = math.sqrt(max(0.0, (cov[0] * cov[2] - xy * xy) * inv))


@njit(**OPTIONS)
def _covariance2d_gradient(cov, eps2d, v_conic, v_compensation):
    """Gradient of the loss by the symmetric image covariance ``A``: ``-A^-1 V A^-1``, and through the compensation.

    Returns the entries (00, 01, 11) of a symmetric matrix.
    """
    xx, xy, yy = cov[0] + eps2d, cov[1], cov[2] + eps2d
    det = xx * yy - xy * xy
    inv = 1.0 / det
    a, b, d = yy * inv, -xy * inv, xx * inv
    v0, v1, v2 = v_conic[0], 0.5 * v_conic[1], v_conic[2]
    t00, t01, t10, t11 = a * v0 + b * v1, a * v1 + b * v2, b * v0 + d * v1, b * v1 + d * v2
    g00, g01, g11 = -(t00 * a + t01 * b), -(t00 * b + t01 * d), -(t10 * b + t11 * d)
    sharp = cov[0] * cov[2] - xy * xy  # determinant before the blur
    if v_compensation != 0.0 and sharp > 1e-12 * det:
        scale = 0.5 * v_compensation / (math.sqrt(sharp / det) * det)
        ratio = sharp / det
        g00 += scale * (cov[2] - ratio * yy)
        g11 += scale * (cov[0] - ratio * xx)
        g01 += scale * (ratio - 1.0) * xy
    return g00, g01, g11


@njit(**OPTIONS)
def _camera_point_gradient(p, r, j, v_j, focal, v_mean2d, v_depth):
    """Gradient by the camera-space mean ``p``, with ``r = 1 / z``, from ``J`` and the projected mean and depth."""
    x, y, _ = p
    r2 = r * r
    vx = v_mean2d[0] * focal[0] * r
    vy = v_mean2d[1] * focal[1] * r
    vz = v_depth - (vx * x + vy * y) * r - (v_j[0] * focal[0] + v_j[2] * focal[1]) * r2
    # j[1] = -f x / z^2 inside the clamp, -f limit / z outside it.
    if j[4]:
        vx -= v_j[1] * focal[0] * r2
        vz -= 2.0 * v_j[1] * j[1] * r
    else:
        vz -= v_j[1] * j[1] * r
    if j[5]:
        vy -= v_j[3] * focal[1] * r2
        vz -= 2.0 * v_j[3] * j[3] * r
    else:
        vz -= v_j[3] * j[3] * r
    return vx, vy, vz


@njit(**OPTIONS)
def _twice_times(v, x, y, z):
    """``2 V (x, y, z)`` with a symmetric matrix given by its upper triangle."""
    return (
        2.0 * (v[0] * x + v[1] * y + v[2] * z),
        2.0 * (v[1] * x + v[3] * y + v[4] * z),
        2.0 * (v[2] * x + v[4] * y + v[5] * z),
    )


@njit(**OPTIONS)
def _add_quat_scale_gradient(g, q, scales, v, v_quats, v_scales):
    """Add the gradients by quaternion and scales; ``v`` is the symmetric gradient (upper triangle) by ``S``."""
    a, b, c = np.float64(scales[g, 0]), np.float64(scales[g, 1]), np.float64(scales[g, 2])
    a0, a1, a2 = _twice_times(v, q[0], q[3], q[6])  # times s^2: the columns of the gradient by Q
    b0, b1, b2 = _twice_times(v, q[1], q[4], q[7])
    c0, c1, c2 = _twice_times(v, q[2], q[5], q[8])
    v_scales[g, 0] += np.float32((q[0] * a0 + q[3] * a1 + q[6] * a2) * a)
    v_scales[g, 1] += np.float32((q[1] * b0 + q[4] * b1 + q[7] * b2) * b)
    v_scales[g, 2] += np.float32((q[2] * c0 + q[5] * c1 + q[8] * c2) * c)
    a, b, c = a * a, b * b, c * c
    a0, a1, a2, b0, b1, b2, c0, c1, c2 = a0 * a, a1 * a, a2 * a, b0 * b, b1 * b, b2 * b, c0 * c, c1 * c, c2 * c
    w, x, y, z, inv = q[9], q[10], q[11], q[12], q[13]
    vw = 2 * (x * (b2 - c1) + y * (c0 - a2) + z * (a1 - b0))
    vx = 2 * (-2 * x * (b1 + c2) + y * (a1 + b0) + z * (a2 + c0) + w * (b2 - c1))
    vy = 2 * (x * (a1 + b0) - 2 * y * (a0 + c2) + z * (b2 + c1) + w * (c0 - a2))
    vz = 2 * (x * (a2 + c0) + y * (b2 + c1) - 2 * z * (a0 + b1) + w * (a1 - b0))
    along = vw * w + vx * x + vy * y + vz * z
    v_quats[g, 0] += np.float32((vw - along * w) * inv)
    v_quats[g, 1] += np.float32((vx - along * x) * inv)
    v_quats[g, 2] += np.float32((vy - along * y) * inv)
    v_quats[g, 3] += np.float32((vz - along * z) * inv)


@njit(**OPTIONS)
def _add_view_gradient(v_view, views, c, means, g, j, v_m, v_p):
    """Add to the 3x4 gradient of ``[R | t]``: ``v_p [m, 1]^T + J^T v_M``."""
    for i in range(3):
        for k in range(3):
            v_view[i, k] += v_p[i] * means[g, k]
        v_view[i, 3] += v_p[i]
    for k in range(3):
        v_view[0, k] += j[0] * v_m[k]
        v_view[1, k] += j[2] * v_m[3 + k]
        v_view[2, k] += j[1] * v_m[k] + j[3] * v_m[3 + k]


@njit(**OPTIONS)
def backward_chunk(
    begin, end, means, quats, scales, covars, use_covars, views, intrinsics, limits, eps2d, rows,
    v_means2d, v_depths, v_conics, v_compensations, v_means, v_quats, v_scales, v_covars, v_views, want_views,
):  # fmt: skip
    """Backward of `project_chunk` for the Gaussians ``begin`` to ``end``; ``v_views`` is this chunk's own."""
    for g in range(begin, end):
        for c in range(views.shape[0]):
            row = rows[c, g]
            if row < 0:
                continue
            v_conic = (np.float64(v_conics[row, 0]), np.float64(v_conics[row, 1]), np.float64(v_conics[row, 2]))
            v_mean2d = (np.float64(v_means2d[row, 0]), np.float64(v_means2d[row, 1]))
            v_depth, v_compensation = np.float64(v_depths[row]), np.float64(v_compensations[row])
            if v_conic == (0.0, 0.0, 0.0) and v_mean2d == (0.0, 0.0) and v_depth == 0.0 and v_compensation == 0.0:
                continue  # nothing shows it
            p = _to_camera(means, views, c, g)
            inv_z = 1.0 / p[2]
            j = _jacobian(p[0], p[1], inv_z, intrinsics, limits, c)
            m = _image_map(j, views, c)
            q = _rotation(quats, use_covars, g)
            s = _covariance(q, scales, covars, use_covars, g)
            ms = _map_covariance(m, s)
            g00, g01, g11 = _covariance2d_gradient(_image_covariance(m, ms), eps2d, v_conic, v_compensation)
            n0, n1, n2 = g00 * m[0] + g01 * m[3], g00 * m[1] + g01 * m[4], g00 * m[2] + g01 * m[5]
            n3, n4, n5 = g01 * m[0] + g11 * m[3], g01 * m[1] + g11 * m[4], g01 * m[2] + g11 * m[5]
            v_s = (  # M^T G M
                m[0] * n0 + m[3] * n3, m[0] * n1 + m[3] * n4, m[0] * n2 + m[3] * n5,
                m[1] * n1 + m[4] * n4, m[1] * n2 + m[4] * n5, m[2] * n2 + m[5] * n5,
            )  # fmt: skip
            v_m = (  # 2 G M S
                2 * (g00 * ms[0] + g01 * ms[3]), 2 * (g00 * ms[1] + g01 * ms[4]), 2 * (g00 * ms[2] + g01 * ms[5]),
                2 * (g01 * ms[0] + g11 * ms[3]), 2 * (g01 * ms[1] + g11 * ms[4]), 2 * (g01 * ms[2] + g11 * ms[5]),
            )  # fmt: skip
            v_j = (
                v_m[0] * views[c, 0, 0] + v_m[1] * views[c, 0, 1] + v_m[2] * views[c, 0, 2],
                v_m[0] * views[c, 2, 0] + v_m[1] * views[c, 2, 1] + v_m[2] * views[c, 2, 2],
                v_m[3] * views[c, 1, 0] + v_m[4] * views[c, 1, 1] + v_m[5] * views[c, 1, 2],
                v_m[3] * views[c, 2, 0] + v_m[4] * views[c, 2, 1] + v_m[5] * views[c, 2, 2],
            )
            focal = (intrinsics[c, 0, 0], intrinsics[c, 1, 1])
            v_p = _camera_point_gradient(p, inv_z, j, v_j, focal, v_mean2d, v_depth)
            for k in range(3):
                total = v_p[0] * views[c, 0, k] + v_p[1] * views[c, 1, k] + v_p[2] * views[c, 2, k]
                v_means[g, k] += np.float32(total)
            if use_covars:
                v_covars[g, 0] += v_s[0]
                v_covars[g, 1] += 2 * v_s[1]
                v_covars[g, 2] += 2 * v_s[2]
                v_covars[g, 3] += v_s[3]
                v_covars[g, 4] += 2 * v_s[4]
                v_covars[g, 5] += v_s[5]
            else:
                _add_quat_scale_gradient(g, q, scales, v_s, v_quats, v_scales)
            if want_views:
                _add_view_gradient(v_views[c], views, c, means, g, j, v_m, v_p)
