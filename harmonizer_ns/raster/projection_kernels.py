# SPDX-License-Identifier: Apache-2.0
"""Kernels of the EWA projection, forward and backward; the notation is that of `harmonizer_ns.raster.projection`.

Symmetric 3x3 matrices are tuples (xx, xy, xz, yy, yz, zz), 2x3 ones row-major tuples of six.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

MAX_RADIUS = float(1 << 30)


@njit(cache=True, error_model="numpy", nogil=True)
def _rotation(quats, g):
    """The rotation of the normalised quaternion (w, x, y, z), row-major, with the quaternion and 1 / its norm."""
    w, x, y, z = np.float64(quats[g, 0]), np.float64(quats[g, 1]), np.float64(quats[g, 2]), np.float64(quats[g, 3])
    inv = 1.0 / math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * inv, x * inv, y * inv, z * inv
    return (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        w, x, y, z, inv,
    )  # fmt: skip


@njit(cache=True, error_model="numpy", nogil=True)
def _covariance(quats, scales, covars, use_covars, g):
    """Upper triangle (xx, xy, xz, yy, yz, zz) of the world covariance."""
    if use_covars:
        return (
            np.float64(covars[g, 0]), np.float64(covars[g, 1]), np.float64(covars[g, 2]),
            np.float64(covars[g, 3]), np.float64(covars[g, 4]), np.float64(covars[g, 5]),
        )  # fmt: skip
    q = _rotation(quats, g)
    a, b, c = np.float64(scales[g, 0]) ** 2, np.float64(scales[g, 1]) ** 2, np.float64(scales[g, 2]) ** 2
    return (
        a * q[0] * q[0] + b * q[1] * q[1] + c * q[2] * q[2],
        a * q[0] * q[3] + b * q[1] * q[4] + c * q[2] * q[5],
        a * q[0] * q[6] + b * q[1] * q[7] + c * q[2] * q[8],
        a * q[3] * q[3] + b * q[4] * q[4] + c * q[5] * q[5],
        a * q[3] * q[6] + b * q[4] * q[7] + c * q[5] * q[8],
        a * q[6] * q[6] + b * q[7] * q[7] + c * q[8] * q[8],
    )


@njit(cache=True, error_model="numpy", nogil=True)
def _to_camera(means, views, c, g):
    """``p = R m + t``."""
    x, y, z = np.float64(means[g, 0]), np.float64(means[g, 1]), np.float64(means[g, 2])
    return (
        views[c, 0, 0] * x + views[c, 0, 1] * y + views[c, 0, 2] * z + views[c, 0, 3],
        views[c, 1, 0] * x + views[c, 1, 1] * y + views[c, 1, 2] * z + views[c, 1, 3],
        views[c, 2, 0] * x + views[c, 2, 1] * y + views[c, 2, 2] * z + views[c, 2, 3],
    )


@njit(cache=True, error_model="numpy", nogil=True)
def _jacobian(px, py, pz, intrinsics, c, width, height):
    """``J`` as (J00, J02, J11, J12), and whether x and y lie inside the clamp."""
    fx, fy, cx, cy = intrinsics[c, 0, 0], intrinsics[c, 1, 1], intrinsics[c, 0, 2], intrinsics[c, 1, 2]
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    x, y = px / pz, py / pz
    tx = min((width - cx) / fx + margin_x, max(-(cx / fx + margin_x), x))
    ty = min((height - cy) / fy + margin_y, max(-(cy / fy + margin_y), y))
    return fx / pz, -fx * tx / pz, fy / pz, -fy * ty / pz, tx == x, ty == y


@njit(cache=True, error_model="numpy", nogil=True)
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


@njit(cache=True, error_model="numpy", nogil=True)
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


@njit(cache=True, error_model="numpy", nogil=True)
def _image_covariance(m, ms):
    """Upper triangle of ``M S M^T``."""
    return (
        ms[0] * m[0] + ms[1] * m[1] + ms[2] * m[2],
        ms[0] * m[3] + ms[1] * m[4] + ms[2] * m[5],
        ms[3] * m[3] + ms[4] * m[4] + ms[5] * m[5],
    )


@njit(cache=True, error_model="numpy", nogil=True)
def _radius(xx, yy, det):
    """Three standard deviations along the longer axis, in whole pixels."""
    middle = 0.5 * (xx + yy)
    return math.ceil(3.0 * math.sqrt(middle + math.sqrt(max(0.01, middle * middle - det))))


@njit(cache=True, error_model="numpy", nogil=True)
def project_chunk(
    begin, end, means, quats, scales, covars, use_covars, views, intrinsics, size, planes, eps2d, radius_clip,
    radii, means2d, depths, conics, compensations,
):  # fmt: skip
    """Project the Gaussians ``begin`` to ``end`` into every camera; what is culled keeps zeros."""
    width, height = size
    for c in range(views.shape[0]):
        for g in range(begin, end):
            px, py, pz = _to_camera(means, views, c, g)
            if not (pz >= planes[0] and pz <= planes[1] and pz > 0.0):
                continue
            m = _image_map(_jacobian(px, py, pz, intrinsics, c, width, height), views, c)
            cov = _image_covariance(m, _map_covariance(m, _covariance(quats, scales, covars, use_covars, g)))
            xx, xy, yy = cov[0] + eps2d, cov[1], cov[2] + eps2d
            det = xx * yy - xy * xy
            if not (det > 0.0 and det < np.inf):
                continue
            radius = min(_radius(xx, yy, det), MAX_RADIUS)
            u = intrinsics[c, 0, 0] * px / pz + intrinsics[c, 0, 2]
            v = intrinsics[c, 1, 1] * py / pz + intrinsics[c, 1, 2]
            if not (
                radius > radius_clip
                and u + radius > 0.0 and u - radius < width
                and v + radius > 0.0 and v - radius < height
            ):  # fmt: skip
                continue
            radii[c, g] = np.int32(radius)
            means2d[c, g, 0], means2d[c, g, 1], depths[c, g] = u, v, pz
            conics[c, g, 0], conics[c, g, 1], conics[c, g, 2] = yy / det, -xy / det, xx / det
            compensations[c, g] = math.sqrt(max(0.0, (cov[0] * cov[2] - xy * xy) / det))


@njit(cache=True, error_model="numpy", nogil=True)
def _covariance2d_gradient(cov, eps2d, v_conic, v_compensation):
    """Gradient of the loss by the symmetric image covariance ``A``: ``-A^-1 V A^-1``, and through the compensation.

    Returns the entries (00, 01, 11) of a symmetric matrix.
    """
    xx, xy, yy = cov[0] + eps2d, cov[1], cov[2] + eps2d
    det = xx * yy - xy * xy
    a, b, d = yy / det, -xy / det, xx / det
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


@njit(cache=True, error_model="numpy", nogil=True)
def _camera_point_gradient(p, j, v_j, focal, v_mean2d, v_depth):
    """Gradient by the camera-space mean, from ``J`` and from the projected mean and depth."""
    x, y, z = p
    r, r2 = 1.0 / z, 1.0 / (z * z)
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


@njit(cache=True, error_model="numpy", nogil=True)
def _add_quat_scale_gradient(g, quats, scales, v, v_quats, v_scales):
    """Add the gradients by quaternion and scales; ``v`` is the symmetric gradient (upper triangle) by ``S``."""
    q = _rotation(quats, g)
    r = np.float64(0.0)
    rows = ((v[0], v[1], v[2]), (v[1], v[3], v[4]), (v[2], v[4], v[5]))
    rot = ((q[0], q[1], q[2]), (q[3], q[4], q[5]), (q[6], q[7], q[8]))
    w, x, y, z, inv = q[9], q[10], q[11], q[12], q[13]
    v_rot = np.empty((3, 3))
    for j in range(3):
        s = np.float64(scales[g, j])
        column_gradient = 0.0
        for i in range(3):
            r = 2.0 * (rows[i][0] * rot[0][j] + rows[i][1] * rot[1][j] + rows[i][2] * rot[2][j])
            column_gradient += rot[i][j] * r
            v_rot[i, j] = r * s * s
        v_scales[g, j] += np.float32(column_gradient * s)
    vw = 2 * (x * (v_rot[2, 1] - v_rot[1, 2]) + y * (v_rot[0, 2] - v_rot[2, 0]) + z * (v_rot[1, 0] - v_rot[0, 1]))
    vx = 2 * (
        -2 * x * (v_rot[1, 1] + v_rot[2, 2]) + y * (v_rot[1, 0] + v_rot[0, 1])
        + z * (v_rot[2, 0] + v_rot[0, 2]) + w * (v_rot[2, 1] - v_rot[1, 2])
    )  # fmt: skip
    vy = 2 * (
        x * (v_rot[1, 0] + v_rot[0, 1]) - 2 * y * (v_rot[0, 0] + v_rot[2, 2])
        + z * (v_rot[2, 1] + v_rot[1, 2]) + w * (v_rot[0, 2] - v_rot[2, 0])
    )  # fmt: skip
    vz = 2 * (
        x * (v_rot[2, 0] + v_rot[0, 2]) + y * (v_rot[2, 1] + v_rot[1, 2])
        - 2 * z * (v_rot[0, 0] + v_rot[1, 1]) + w * (v_rot[1, 0] - v_rot[0, 1])
    )  # fmt: skip
    along = vw * w + vx * x + vy * y + vz * z
    v_quats[g, 0] += np.float32((vw - along * w) * inv)
    v_quats[g, 1] += np.float32((vx - along * x) * inv)
    v_quats[g, 2] += np.float32((vy - along * y) * inv)
    v_quats[g, 3] += np.float32((vz - along * z) * inv)


@njit(cache=True, error_model="numpy", nogil=True)
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


@njit(cache=True, error_model="numpy", nogil=True)
def backward_chunk(
    begin, end, means, quats, scales, covars, use_covars, views, intrinsics, size, eps2d, rows,
    v_means2d, v_depths, v_conics, v_compensations, v_means, v_quats, v_scales, v_covars, v_views, want_views,
):  # fmt: skip
    """Backward of `project_chunk` for the Gaussians ``begin`` to ``end``; ``v_views`` is this chunk's own."""
    width, height = size
    for g in range(begin, end):
        for c in range(views.shape[0]):
            row = rows[c, g]
            if row < 0:
                continue
            p = _to_camera(means, views, c, g)
            j = _jacobian(p[0], p[1], p[2], intrinsics, c, width, height)
            m = _image_map(j, views, c)
            s = _covariance(quats, scales, covars, use_covars, g)
            ms = _map_covariance(m, s)
            v_conic = (np.float64(v_conics[row, 0]), np.float64(v_conics[row, 1]), np.float64(v_conics[row, 2]))
            g00, g01, g11 = _covariance2d_gradient(
                _image_covariance(m, ms), eps2d, v_conic, np.float64(v_compensations[row])
            )
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
            v_mean2d = (np.float64(v_means2d[row, 0]), np.float64(v_means2d[row, 1]))
            v_p = _camera_point_gradient(p, j, v_j, focal, v_mean2d, np.float64(v_depths[row]))
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
                _add_quat_scale_gradient(g, quats, scales, v_s, v_quats, v_scales)
            if want_views:
                _add_view_gradient(v_views[c], views, c, means, g, j, v_m, v_p)
