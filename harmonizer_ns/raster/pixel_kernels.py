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

A block of 4x2 pixels is one vector; the state of a tile's blocks lies in a small array, plane after plane. A hit knows
which blocks its splat may colour; those whose pixels have all stopped are passed over.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from harmonizer_ns.raster.simd import (
    WIDTH,
    add_scaled,
    broadcast,
    lane_bits,
    larger,
    load,
    lowest_bit,
    magnitude,
    negated_magnitude,
    select,
    smaller,
    store,
    store_totals,
    times_power_of_two,
    zeros,
)
from harmonizer_ns.raster.tiles import (
    BLOCK_HEIGHT,
    BLOCK_WIDTH,
    BLOCKS,
    BLOCKS_ACROSS,
    BLOCKS_DOWN,
    COLOR,
    PEAK,
    ROW,
    SLOT,
    TILE,
    XX,
    XY,
    YY,
    X,
    Y,
)

F = np.float32
MIN_ALPHA = np.float32(1.0 / 255.0)
MAX_ALPHA = np.float32(0.999)
MIN_TRANSMITTANCE = np.float32(1e-4)
MIN_LOG2_ALPHA = np.float32(-np.log2(255.0))
ROUND = np.float32(1.5 * 2**23)  # added to a small float, it leaves no bits after the point
CHECK_EVERY = 16  # hits between two looks at which blocks are still transparent
NUM_BLOCKS = BLOCKS_ACROSS * BLOCKS_DOWN
# A hit's gradient: v_sigma times 1, dx, dy, dx^2, dx dy, dy^2, then |dL/dx|, |dL/dy| if wanted, then colours.
MOMENTS = 6

# Not "fast": comparisons with NaN must keep their meaning.
FLAGS = {"contract", "reassoc", "nsz", "arcp"}


# Helpers only ever run inside the tile loops: inlined, and compiled with them.
HELPER = {"error_model": "numpy", "nogil": True, "fastmath": FLAGS, "forceinline": True}


@njit(**HELPER)
def _exp2(power):
    """``2 ** power`` to 3e-7, for powers from -126 to 127: ``2 ** n`` by bits, the rest in [-1/2, 1/2] by minimax."""
    shifted = power + ROUND
    f = power - (shifted - ROUND)
    poly = f * F(1.3276472e-3) + F(9.675541e-3)
    poly = poly * f + F(5.550713e-2)
    poly = poly * f + F(2.402212e-1)
    poly = poly * f + F(6.9314694e-1)
    poly = poly * f + F(1.0000001)
    return times_power_of_two(poly, shifted)


@njit(**HELPER)
def _falloff(splat, dx, dy):
    """``o exp(-sigma)`` on a block and the alpha it gives; where that is 0, the first may be anything."""
    power = (dx * splat[XX] + dy * splat[XY]) * dx + (dy * dy * splat[YY] + splat[PEAK])
    raw = _exp2(power)
    seen = (power >= MIN_LOG2_ALPHA) & (power <= splat[PEAK] + F(1e-3))  # sigma is 0 or more but for rounding
    return raw, select(seen, smaller(raw, MAX_ALPHA), F(0.0))


@njit(**HELPER)
def _place(block, lane):
    """Column and row of a pixel within its tile."""
    x = BLOCK_WIDTH * (block // BLOCKS_DOWN) + lane % BLOCK_WIDTH
    return x, BLOCK_HEIGHT * (block % BLOCKS_DOWN) + lane // BLOCK_WIDTH


@njit(**HELPER)
def _pixel_centers():
    """Coordinates of the pixels' centres, two planes for each block of a tile."""
    centers = np.empty(2 * NUM_BLOCKS * WIDTH, np.float32)
    for block in range(NUM_BLOCKS):
        for lane in range(WIDTH):
            x, y = _place(block, lane)
            centers[2 * block * WIDTH + lane] = x + F(0.5)
            centers[(2 * block + 1) * WIDTH + lane] = y + F(0.5)
    return centers


@njit(**HELPER)
def _from_centers(x, y, centers, block):
    """How far a place lies from the centres of a block's pixels, along x and y."""
    at = 2 * block * WIDTH
    return x - load(centers, at), y - load(centers, at + WIDTH)


@njit(**HELPER)
def _live_blocks(state, stride):
    """The bits of the blocks in which some pixel still lets light through."""
    bits = np.int64(0)
    for block in range(NUM_BLOCKS):
        bits |= np.int64(lane_bits(load(state, block * stride) > F(0.0)) != 0) << block
    return bits


@njit(**HELPER)
def _blend_block(state, at, splat, dx, dy, channels):
    """Put one splat behind what a block shows. Planes of ``state``: T, once stopped its negative, then channels."""
    _, alpha = _falloff(splat, dx, dy)
    old = load(state, at)
    light = larger(old, F(0.0))
    weight = alpha * light
    after = light - weight
    ends = after <= MIN_TRANSMITTANCE
    weight = select(ends, F(0.0), weight)
    store(state, at, select(ends, negated_magnitude(old), after))
    for k in range(1, 1 + len(channels)):
        plane = at + k * WIDTH
        store(state, plane, load(state, plane) + weight * splat[COLOR - 1 + k])


@njit(cache=True, error_model="numpy", nogil=True, fastmath=FLAGS)
def forward_tiles(begin, end, splats, hits, offsets, backgrounds, tiles_x, tiles_y, image, light, channels):
    """Render the tiles ``begin`` to ``end`` (counted over all cameras).

    Args:
        begin: first tile.
        end: one past the last tile.
        splats: the splat table, ``rows 6+k``.
        hits: the hit table.
        offsets: first hit of each tile.
        backgrounds: ``cameras k``.
        tiles_x: tiles across.
        tiles_y: tiles down.
        image: out, ``cameras height width k``.
        light: out, the transmittance at the end, ``cameras height width``.
        channels: a tuple of ``k`` zeros; its length is part of the compiled type.
    """
    stride = (1 + len(channels)) * WIDTH
    state, centers = np.empty(NUM_BLOCKS * stride, np.float32), _pixel_centers()
    for tile in range(begin, end):
        camera, place = tile // (tiles_x * tiles_y), tile % (tiles_x * tiles_y)
        top, left = (place // tiles_x) * TILE, (place % tiles_x) * TILE
        rows, columns = min(TILE, light.shape[1] - top), min(TILE, light.shape[2] - left)
        state[:] = F(0.0)
        for block in range(NUM_BLOCKS):
            for lane in range(WIDTH):
                x, y = _place(block, lane)
                state[block * stride + lane] = F(x < columns and y < rows)
        live = np.int64(0)
        for hit in range(offsets[tile], offsets[tile + 1]):
            if (hit - offsets[tile]) % CHECK_EVERY == 0:
                live = _live_blocks(state, stride)
                if live == 0:
                    break
            splat = splats[hits[hit, ROW]]
            x, y = broadcast(splat[X] - F(left)), broadcast(splat[Y] - F(top))
            blocks = hits[hit, BLOCKS] & live
            while blocks:
                block = lowest_bit(blocks)
                blocks &= blocks - 1
                dx, dy = _from_centers(x, y, centers, block)
                _blend_block(state, block * stride, splat, dx, dy, channels)
        for block in range(NUM_BLOCKS):
            for lane in range(WIDTH):
                x, y = _place(block, lane)
                if x < columns and y < rows:
                    at = block * stride + lane
                    through = abs(state[at])
                    light[camera, top + y, left + x] = through
                    for k in range(len(channels)):
                        color = state[at + (1 + k) * WIDTH]
                        image[camera, top + y, left + x, k] = color + through * backgrounds[camera, k]


@njit(**HELPER)
def _add_absolute(extra, splat, v_x, v_y):
    """Add ``|dL/d centre| / ln 2`` of a block, where it is wanted."""
    if len(extra) == 0:
        return extra
    gx, gy = extra
    xx, xy, yy = F(2.0) * splat[XX], splat[XY], F(2.0) * splat[YY]
    return (gx + magnitude(v_x * xx + v_y * xy), gy + magnitude(v_x * xy + v_y * yy))


@njit(**HELPER)
def _unblend_block(state, at, moments, extra, colors, splat, dx, dy):
    """Backward of `_blend_block`; adds to the sums over pixels, which it returns.

    Planes of ``state``: T, 0 once stopped, R, then v per channel.
    """
    raw, alpha = _falloff(splat, dx, dy)
    light = load(state, at)
    weight = alpha * light
    after = light - weight
    ends = after <= MIN_TRANSMITTANCE
    weight, alpha = select(ends, F(0.0), weight), select(ends, F(0.0), alpha)
    store(state, at, select(ends, F(0.0), after))
    shade = broadcast(F(0.0))
    for k in range(len(colors)):
        shade = shade + load(state, at + (2 + k) * WIDTH) * splat[COLOR + k]
    colors = add_scaled(colors, weight, state, at + 2 * WIDTH)
    own = weight * shade
    behind = load(state, at + WIDTH) - own
    store(state, at + WIDTH, behind)
    # -raw dL/dalpha, with raw = alpha where it is not clamped
    v_sigma = select(raw <= MAX_ALPHA, behind * (alpha / (F(1.0) - alpha)) - own, F(0.0))
    v_x, v_y = v_sigma * dx, v_sigma * dy
    s, sx, sy, sxx, sxy, syy = moments
    moments = (s + v_sigma, sx + v_x, sy + v_y, sxx + v_x * dx, sxy + v_x * dy, syy + v_y * dy)
    return moments, _add_absolute(extra, splat, v_x, v_y), colors


@njit(**HELPER)
def _load_tile(state, camera, top, left, image, light, v_image, v_light, channels):
    """Start the backward pass: T = 1 and R from the finished image; pixels outside the image stay dark."""
    stride = (2 + len(channels)) * WIDTH
    state[:] = F(0.0)
    for block in range(NUM_BLOCKS):
        for lane in range(WIDTH):
            x, y = _place(block, lane)
            if left + x >= light.shape[2] or top + y >= light.shape[1]:
                continue
            at = block * stride + lane
            rest = v_light[camera, top + y, left + x] * light[camera, top + y, left + x]
            for k in range(len(channels)):
                v = v_image[camera, top + y, left + x, k]
                state[at + (2 + k) * WIDTH] = v
                rest += v * image[camera, top + y, left + x, k]
            state[at] = F(1.0)
            state[at + WIDTH] = rest


@njit(cache=True, error_model="numpy", nogil=True, fastmath=FLAGS)
def backward_tiles(
    begin, end, splats, hits, offsets, tiles_x, tiles_y, image, light, v_image, v_light, grads, absolute, channels
):
    """Gradients of the tiles ``begin`` to ``end``: one line of ``grads`` per hit, at the hit's slot.

    Args:
        begin: first tile.
        end: one past the last tile.
        splats: the splat table.
        hits: the hit table.
        offsets: first hit of each tile.
        tiles_x: tiles across.
        tiles_y: tiles down.
        image: the rendered image, background included, ``cameras height width k``.
        light: the transmittance at the end.
        v_image: gradient by ``image``.
        v_light: gradient by ``light``.
        grads: out, ``slots 6+a+k``.
        absolute: a tuple of ``a`` = 2 zeros to sum the absolute gradients by the splat's position too, else empty.
        channels: a tuple of ``k`` zeros.
    """
    stride = (2 + len(channels)) * WIDTH
    state, centers = np.empty(NUM_BLOCKS * stride, np.float32), _pixel_centers()
    for tile in range(begin, end):
        camera, place = tile // (tiles_x * tiles_y), tile % (tiles_x * tiles_y)
        top, left = (place // tiles_x) * TILE, (place % tiles_x) * TILE
        _load_tile(state, camera, top, left, image, light, v_image, v_light, channels)
        live = np.int64(-1)
        for hit in range(offsets[tile], offsets[tile + 1]):
            if live != 0 and (hit - offsets[tile]) % CHECK_EVERY == 0:
                live = _live_blocks(state, stride)
            splat = splats[hits[hit, ROW]]
            x, y = broadcast(splat[X] - F(left)), broadcast(splat[Y] - F(top))
            moments, extra, colors = zeros((0, 0, 0, 0, 0, 0)), zeros(absolute), zeros(channels)
            blocks = hits[hit, BLOCKS] & live
            while blocks:
                block = lowest_bit(blocks)
                blocks &= blocks - 1
                dx, dy = _from_centers(x, y, centers, block)
                moments, extra, colors = _unblend_block(state, block * stride, moments, extra, colors, splat, dx, dy)
            store_totals(grads[hits[hit, SLOT]], 0, moments + extra + colors)


@njit(cache=True, error_model="numpy", nogil=True)
def gather_hits(begin, end, splats, starts, blocks, grads, v_means2d, v_conics, v_opacities, v_absolute, v_colors):
    """Add up each row's hits, always in the order of its tiles, so that the sum never depends on threads.

    Rows without slots keep their zeros. ``v_absolute`` has no columns where it is not wanted.
    """
    sums = np.empty(grads.shape[1])
    first = MOMENTS + v_absolute.shape[1]
    ln2 = np.log(2.0)
    for row in range(begin, end):
        if starts[row] == starts[row + 1]:
            continue
        sums[:] = 0.0
        for slot in range(starts[row], starts[row + 1]):
            if blocks[slot]:
                for k in range(sums.shape[0]):
                    sums[k] += grads[slot, k]
        xx, xy, yy = -2.0 * ln2 * splats[row, XX], -ln2 * splats[row, XY], -2.0 * ln2 * splats[row, YY]
        v_means2d[row, 0], v_means2d[row, 1] = xx * sums[1] + xy * sums[2], xy * sums[1] + yy * sums[2]
        v_conics[row, 0], v_conics[row, 1], v_conics[row, 2] = 0.5 * sums[3], sums[4], 0.5 * sums[5]
        v_opacities[row] = -sums[0] * 2.0 ** -splats[row, PEAK]
        for k in range(v_absolute.shape[1]):
            v_absolute[row, k] = ln2 * sums[MOMENTS + k]
        for k in range(v_colors.shape[1]):
            v_colors[row, k] = sums[first + k]
