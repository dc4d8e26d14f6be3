# SPDX-License-Identifier: Apache-2.0
# Arguments of numba kernels are unpacked from tuples, and intrinsics hide their first argument.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
"""Alpha compositing of sorted splats over 16x16 tiles, forward and backward.

Notation, per pixel, splats front to back: ``sigma_i = (a dx^2 + c dy^2) / 2 + b dx dy``,
``alpha_i = min(0.999, o_i exp(-sigma_i))`` (0 below 1/255), ``T_i = prod_{j<i} (1 - alpha_j)``,
``w_i = alpha_i T_i``, image ``C = sum_i w_i c_i + T_end background``. A pixel stops before the splat that would
bring ``T`` to 1e-4 or below.

Backward, with ``v`` the gradient by ``C``, ``v_A`` by the accumulated alpha and ``q_i = v . c_i``::

    dL/dalpha_i = T_i q_i - R_i / (1 - alpha_i)
    R_i = sum_{j>i} w_j q_j + T_end (v . background - v_A)

``R_0 + w_0 q_0 = v . C - v_A T_end`` is known, so one front-to-back pass suffices, with two numbers of state per
pixel however many channels there are.

A row of a tile is one 16-wide vector; its state lies in a small array, plane after plane. Rows that the splat's
ellipse misses are skipped.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from harmonizer_ns.raster.simd import (
    any_lane,
    broadcast,
    lane_numbers,
    larger,
    load,
    magnitude,
    power_of_two,
    select,
    smaller,
    store,
    total,
    whole_part,
)
from harmonizer_ns.raster.tiles import (
    COLOR,
    CONIC_XX,
    CONIC_XY,
    CONIC_YY,
    HALF_HEIGHT,
    LIMIT,
    OPACITY,
    SLOPE,
    TILE,
    X,
    Y,
)

F = np.float32
MIN_ALPHA = np.float32(1.0 / 255.0)
MAX_ALPHA = np.float32(0.999)
MIN_TRANSMITTANCE = np.float32(1e-4)
CHECK_EVERY = 8  # hits between two looks at which rows are still transparent

# Not "fast": comparisons with NaN must keep their meaning.
FLAGS = {"contract", "reassoc", "nsz", "arcp"}


# Helpers only ever run inside the tile loops: inlined, and compiled with them.
HELPER = {"error_model": "numpy", "nogil": True, "fastmath": FLAGS, "forceinline": True}


@njit(**HELPER)
def _exp_negative(sigma):
    """``exp(-sigma)`` for ``sigma >= 0`` to 2e-7: ``2^n`` by bits, ``2^f`` for ``f`` in [-1/2, 1/2] by Taylor."""
    power = larger(sigma * F(-1.4426950408889634), F(-125.0))
    whole = whole_part(power - F(0.5))
    f = power - whole
    poly = f * F(1.5403530e-4) + F(1.3333558e-3)
    poly = poly * f + F(9.6181291e-3)
    poly = poly * f + F(5.5504109e-2)
    poly = poly * f + F(2.4022651e-1)
    poly = poly * f + F(6.9314718e-1)
    poly = poly * f + F(1.0)
    return poly * power_of_two(whole)


@njit(**HELPER)
def _falloff(splat, dx, dy):
    """``o exp(-sigma)`` on a row of pixels and the alpha it gives."""
    across, fixed = splat[CONIC_XY] * dy, F(0.5) * splat[CONIC_YY] * dy * dy
    sigma = (dx * (F(0.5) * splat[CONIC_XX]) + across) * dx + fixed
    raw = _exp_negative(sigma) * splat[OPACITY]
    alpha = smaller(raw, MAX_ALPHA)
    return raw, select((alpha >= MIN_ALPHA) & (sigma >= F(0.0)), alpha, F(0.0))


@njit(**HELPER)
def _refresh_live(state, live):
    """Mark the rows of the tile in which some pixel still lets light through; tell whether any does."""
    some = False
    for y in range(TILE):
        live[y] = any_lane(load(state[y], 0) > F(0.0))
        some |= live[y]
    return some


@njit(**HELPER)
def _rows_touched(splat, top):
    """First and one past the last row of the tile within the splat's ellipse."""
    center = splat[Y] - top - F(0.5)
    low = np.ceil(center - splat[HALF_HEIGHT])
    high = np.floor(center + splat[HALF_HEIGHT])
    return np.int64(max(low, F(0.0))), np.int64(min(high, F(TILE - 1))) + 1


@njit(**HELPER)
def _misses_row(splat, dy, left):
    """Whether ``sigma`` stays above the splat's limit on all 16 pixels of a row."""
    far = splat[X] - left - F(0.5)
    near = far - F(TILE - 1)
    dx = min(max(splat[SLOPE] * dy, near), far)
    sigma = F(0.5) * (splat[CONIC_XX] * dx * dx + splat[CONIC_YY] * dy * dy) + splat[CONIC_XY] * dx * dy
    return sigma > splat[LIMIT]


@njit(**HELPER)
def _blend_row(row, splat, dx, dy, channels):
    """Put one splat behind what 16 pixels show. Planes of ``row``: T while alive, T at the end, channels."""
    _, alpha = _falloff(splat, dx, dy)
    light = load(row, 0)
    after = light * (F(1.0) - alpha)
    ends = after <= MIN_TRANSMITTANCE
    weight = select(ends, F(0.0), alpha * light)
    store(row, 0, select(ends, F(0.0), after))
    store(row, TILE, select(ends, load(row, TILE), after))
    for k in range(len(channels)):
        store(row, (2 + k) * TILE, load(row, (2 + k) * TILE) + weight * splat[COLOR + k])


@njit(cache=True, error_model="numpy", nogil=True, fastmath=FLAGS)
def forward_tiles(begin, end, splats, ids, offsets, backgrounds, tiles_x, tiles_y, image, light, channels):
    """Render the tiles ``begin`` to ``end`` (counted over all cameras).

    Args:
        begin: first tile.
        end: one past the last tile.
        splats: the splat table, ``rows 9+k``.
        ids: row of each hit.
        offsets: first hit of each tile.
        backgrounds: ``cameras k``.
        tiles_x: tiles across.
        tiles_y: tiles down.
        image: out, ``cameras height width k``.
        light: out, the transmittance at the end, ``cameras height width``.
        channels: a tuple of ``k`` zeros; its length is part of the compiled type.
    """
    height, width = light.shape[1], light.shape[2]
    state = np.empty((TILE, (2 + len(channels)) * TILE), np.float32)
    live = np.empty(TILE, np.bool_)
    for tile in range(begin, end):
        camera, place = tile // (tiles_x * tiles_y), tile % (tiles_x * tiles_y)
        top, left = (place // tiles_x) * TILE, (place % tiles_x) * TILE
        rows, columns = min(TILE, height - top), min(TILE, width - left)
        state[:] = F(0.0)
        state[:rows, :columns] = F(1.0)
        state[:, TILE : 2 * TILE] = F(1.0)
        for hit in range(offsets[tile], offsets[tile + 1]):
            if (hit - offsets[tile]) % CHECK_EVERY == 0 and not _refresh_live(state, live):
                break
            splat = splats[ids[hit]]
            dx = (splat[X] - F(left) - F(0.5)) - lane_numbers()
            first, last = _rows_touched(splat, F(top))
            for y in range(first, last):
                dy = splat[Y] - F(top + y) - F(0.5)
                if live[y] and not _misses_row(splat, dy, F(left)):
                    _blend_row(state[y], splat, dx, dy, channels)
        for y in range(rows):
            for x in range(columns):
                through = state[y, TILE + x]
                light[camera, top + y, left + x] = through
                for k in range(len(channels)):
                    color = state[y, (2 + k) * TILE + x]
                    image[camera, top + y, left + x, k] = color + through * backgrounds[camera, k]


@njit(**HELPER)
def _add(sums, plane, value):
    store(sums, plane * TILE, load(sums, plane * TILE) + value)


@njit(**HELPER)
def _unblend_row(row, sums, splat, dx, dy, channels, absolute):
    """Backward of `_blend_row`; adds into ``sums``, kept per column.

    Planes of ``row``: T while alive, R, then v per channel. Planes of ``sums``: ``v_sigma`` times 1, dy, dy^2,
    |dL/dx|, |dL/dy|, then per channel ``w v``.
    """
    raw, alpha = _falloff(splat, dx, dy)
    light = load(row, 0)
    after = light * (F(1.0) - alpha)
    ends = after <= MIN_TRANSMITTANCE
    alpha = select(ends, F(0.0), alpha)
    weight = alpha * light
    store(row, 0, select(ends, F(0.0), after))
    shade = broadcast(F(0.0))
    for k in range(len(channels)):
        v = load(row, (2 + k) * TILE)
        shade = shade + v * splat[COLOR + k]
        _add(sums, 5 + k, weight * v)
    behind = load(row, TILE) - weight * shade
    store(row, TILE, behind)
    v_alpha = light * shade - behind / (F(1.0) - alpha)
    v_sigma = select((alpha > F(0.0)) & (raw <= MAX_ALPHA), raw * v_alpha * F(-1.0), F(0.0))
    _add(sums, 0, v_sigma)
    _add(sums, 1, v_sigma * dy)
    _add(sums, 2, v_sigma * (dy * dy))
    if absolute:
        a, b, c = splat[CONIC_XX], splat[CONIC_XY], splat[CONIC_YY]
        _add(sums, 3, magnitude(v_sigma * (dx * a + b * dy)))
        _add(sums, 4, magnitude(v_sigma * (dx * b + c * dy)))


@njit(**HELPER)
def _store_hit(grad, sums, splat, dx, channels):
    """Turn column sums into one hit's gradient: x, y, conic xx, xy, yy, opacity, |x|, |y|, channels."""
    a, b, c = splat[CONIC_XX], splat[CONIC_XY], splat[CONIC_YY]
    zeroth, first, second = load(sums, 0), load(sums, TILE), load(sums, 2 * TILE)
    mx, my = total(zeroth * dx), total(first)
    grad[0], grad[1] = a * mx + b * my, b * mx + c * my
    grad[2], grad[3], grad[4] = F(0.5) * total(zeroth * dx * dx), total(first * dx), F(0.5) * total(second)
    grad[5] = -total(zeroth) / splat[OPACITY]
    grad[6], grad[7] = total(load(sums, 3 * TILE)), total(load(sums, 4 * TILE))
    for k in range(len(channels)):
        grad[8 + k] = total(load(sums, (5 + k) * TILE))


@njit(**HELPER)
def _load_tile(state, camera, top, left, image, light, v_image, v_light, channels):
    """Start the backward pass: T = 1 and R from the finished image; pixels outside the image stay dark."""
    state[:] = F(0.0)
    for y in range(min(TILE, light.shape[1] - top)):
        for x in range(min(TILE, light.shape[2] - left)):
            rest = v_light[camera, top + y, left + x] * light[camera, top + y, left + x]
            for k in range(len(channels)):
                v = v_image[camera, top + y, left + x, k]
                state[y, (2 + k) * TILE + x] = v
                rest += v * image[camera, top + y, left + x, k]
            state[y, x] = F(1.0)
            state[y, TILE + x] = rest


@njit(cache=True, error_model="numpy", nogil=True, fastmath=FLAGS)
def backward_tiles(
    begin, end, splats, ids, slots, offsets, tiles_x, tiles_y, image, light, v_image, v_light, grads, absolute, channels
):
    """Gradients of the tiles ``begin`` to ``end``: one line of ``grads`` per hit, at the hit's slot.

    Args:
        begin: first tile.
        end: one past the last tile.
        splats: the splat table.
        ids: row of each hit.
        slots: line of ``grads`` of each hit.
        offsets: first hit of each tile.
        tiles_x: tiles across.
        tiles_y: tiles down.
        image: the rendered image, background included, ``cameras height width k``.
        light: the transmittance at the end.
        v_image: gradient by ``image``.
        v_light: gradient by ``light``.
        grads: out, ``hits 8+k``.
        absolute: whether to sum the absolute gradients by the splat's position too.
        channels: a tuple of ``k`` zeros.
    """
    state = np.empty((TILE, (2 + len(channels)) * TILE), np.float32)
    sums = np.empty((5 + len(channels)) * TILE, np.float32)
    live = np.empty(TILE, np.bool_)
    for tile in range(begin, end):
        camera, place = tile // (tiles_x * tiles_y), tile % (tiles_x * tiles_y)
        top, left = (place // tiles_x) * TILE, (place % tiles_x) * TILE
        _load_tile(state, camera, top, left, image, light, v_image, v_light, channels)
        some = True
        for hit in range(offsets[tile], offsets[tile + 1]):
            if some and (hit - offsets[tile]) % CHECK_EVERY == 0:
                some = _refresh_live(state, live)
            grad = grads[slots[hit]]
            if not some:
                grad[:] = F(0.0)
                continue
            splat = splats[ids[hit]]
            sums[:] = F(0.0)
            dx = (splat[X] - F(left) - F(0.5)) - lane_numbers()
            first, last = _rows_touched(splat, F(top))
            for y in range(first, last):
                dy = splat[Y] - F(top + y) - F(0.5)
                if live[y] and not _misses_row(splat, dy, F(left)):
                    _unblend_row(state[y], sums, splat, dx, dy, channels, absolute)
            _store_hit(grad, sums, splat, dx, channels)


@njit(cache=True, error_model="numpy", nogil=True)
def gather_hits(begin, end, starts, grads, absolute, v_means2d, v_conics, v_opacities, v_absolute, v_colors):
    """Add up each row's hits, always in the order of its tiles, so that the sum never depends on threads."""
    totals = np.empty(grads.shape[1])
    for row in range(begin, end):
        totals[:] = 0.0
        for slot in range(starts[row], starts[row + 1]):
            for k in range(totals.shape[0]):
                totals[k] += grads[slot, k]
        v_means2d[row, 0], v_means2d[row, 1] = totals[0], totals[1]
        v_conics[row, 0], v_conics[row, 1], v_conics[row, 2] = totals[2], totals[3], totals[4]
        v_opacities[row] = totals[5]
        if absolute:
            v_absolute[row, 0], v_absolute[row, 1] = totals[6], totals[7]
        for k in range(v_colors.shape[1]):
            v_colors[row, k] = totals[8 + k]
