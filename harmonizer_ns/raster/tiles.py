# SPDX-License-Identifier: Apache-2.0
# Intrinsics hide their first argument.
# pyright: reportCallIssue=false
"""Which splats touch which 16x16 tile, front to back, and which of its blocks of 4x2 pixels.

A splat colours a pixel only where ``alpha = o exp(-sigma) >= 1/255``, that is inside the ellipse
``sigma <= ln(255 o)``. A tile is listed for a splat if gsplat lists it (it meets the square of the splat's radius)
and the ellipse meets one of its blocks: fewer hits than gsplat's, the same image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit

from harmonizer_ns.raster.simd import lane_bits, larger, load, select, smaller, square_root
from harmonizer_ns.raster.threads import parallel_chunks

TILE = 16
CHUNK = 4096

BLOCK_WIDTH, BLOCK_HEIGHT = 4, 2
BLOCKS_ACROSS, BLOCKS_DOWN = TILE // BLOCK_WIDTH, TILE // BLOCK_HEIGHT

# Columns of the splat table that the pixel kernels read; colours follow. With d = centre - pixel,
# log2(o exp(-sigma)) = XX dx^2 + XY dx dy + YY dy^2 + PEAK.
X, Y, XX, XY, YY, PEAK, COLOR = range(7)
LOG2_255 = math.log2(255.0)
F = np.float32
FIRST_ROWS = (BLOCK_HEIGHT * np.arange(BLOCKS_DOWN) + 0.5).astype(np.float32)  # pixel centres, of each band of a tile
MARGIN = F(0.01)  # pixels, for rounding
ALL_BLOCKS = np.uint32(0xFFFFFFFF)

# Columns of the hit table.
ROW, BLOCKS, SLOT = range(3)


@dataclass(frozen=True)
class TileHits:
    """Splat-tile pairs of all cameras, sorted by camera, tile (row-major), depth.

    Args:
        splats: one line per projected row, columns as named above (6 geometry values, then colours).
        counts: number of tiles of each row.
        offsets: where each tile's hits begin; one entry more than there are tiles.
        hits: of each hit the row, the bits of the blocks that the splat may colour (column by column), and the slot.
        starts: where each row's slots begin, one for each tile of its box; one entry more than there are rows.
        blocks: the bits of each slot; 0 where the splat misses the tile, which then is no hit.
    """

    splats: np.ndarray
    counts: np.ndarray
    offsets: np.ndarray
    hits: np.ndarray
    starts: np.ndarray
    blocks: np.ndarray


@njit(cache=True, error_model="numpy", nogil=True)
def _drawable(row, radii, opacities, colors):
    if radii[row] <= 0 or not (opacities[row] >= 1.0 / 255.0 and opacities[row] < np.inf):
        return False
    total = 0.0
    for k in range(colors.shape[1]):
        total += colors[row, k]
    return bool(np.isfinite(total))


@njit(cache=True, error_model="numpy", nogil=True)
def _tile_range(center, half, tiles):
    low = min(max(math.floor((center - half) / TILE), 0.0), float(tiles))
    high = min(max(math.ceil((center + half) / TILE), 0.0), float(tiles))
    return np.int32(low), np.int32(high)


@njit(cache=True, error_model="numpy", nogil=True)
def _ellipse(line):
    """``p``, ``q``, slope and reach of a splat's ellipse ``|x - X - slope dy| <= sqrt(p - q dy^2)``.

    It ends ``reach`` above and below the centre; NaN where float32 does not determine it.
    """
    a, b, c = -2.0 * np.float64(line[XX]), -np.float64(line[XY]), -2.0 * np.float64(line[YY])
    limit = (np.float64(line[PEAK]) + LOG2_255) * 1.0001 + 2e-4  # rounding must not lose a pixel
    det = a * c - b * b
    if not det > 1e-6 * a * c:
        return np.nan, np.nan, np.nan, np.nan
    return 2.0 * limit / a, det / (a * a), b / a, math.sqrt(2.0 * limit * a / det)


@njit(cache=True, error_model="numpy", nogil=True)
def _bound_chunk(begin, end, radii, means2d, conics, opacities, colors, tiles_x, tiles_y, splats, boxes, sizes):
    """Fill the splat table, the tile box and the number of its tiles of the rows ``begin`` to ``end``."""
    log2_e = 1.0 / math.log(2.0)
    for row in range(begin, end):
        if not _drawable(row, radii, opacities, colors):
            continue
        line = splats[row]
        line[X], line[Y] = means2d[row, 0], means2d[row, 1]
        line[XX], line[YY] = -0.5 * log2_e * conics[row, 0], -0.5 * log2_e * conics[row, 2]
        line[XY], line[PEAK] = -log2_e * conics[row, 1], math.log2(opacities[row])
        for k in range(colors.shape[1]):
            line[COLOR + k] = colors[row, k]
        p, q, slope, reach = _ellipse(line)
        half_x = half_y = np.float64(radii[row])
        if not math.isnan(reach):
            half_x, half_y = min(half_x, math.sqrt(p * (1.0 + slope * slope / q))), min(half_y, reach)
        x0, x1 = _tile_range(means2d[row, 0], half_x, tiles_x)
        y0, y1 = _tile_range(means2d[row, 1], half_y, tiles_y)
        boxes[row, 0], boxes[row, 1], boxes[row, 2], boxes[row, 3] = x0, x1, y0, y1
        sizes[row] = (x1 - x0) * (y1 - y0)


@njit(error_model="numpy", nogil=True, forceinline=True)
def _blocks_met(x, y, p, q, slope):
    """The bits of the blocks of a tile with a pixel's centre inside an ellipse around ``x, y``; a lane is a band."""
    dy = F(y) - load(FIRST_ROWS, 0)
    middle = dy * slope + x
    square = p - dy * dy * q
    half = square_root(square) + MARGIN
    low = select(square >= F(0.0), middle - half, F(np.inf))
    high = select(square >= F(0.0), middle + half, F(-np.inf))
    dy = dy - F(1.0)
    middle = middle - slope
    square = p - dy * dy * q
    half = square_root(square) + MARGIN
    low = select(square >= F(0.0), smaller(low, middle - half), low)
    high = select(square >= F(0.0), larger(high, middle + half), high)
    bits = np.int64(0)
    for column in range(BLOCKS_ACROSS):
        left = F(BLOCK_WIDTH * column) + F(0.5)
        met = (high >= left) & (low <= left + F(BLOCK_WIDTH - 1))
        bits |= lane_bits(met) << (BLOCKS_DOWN * column)
    return np.uint32(bits)


@njit(cache=True, error_model="numpy", nogil=True)
def _mark_chunk(begin, end, splats, boxes, starts, blocks, counts):
    """Set the bits of all slots of the rows ``begin`` to ``end``, and count those with any."""
    for row in range(begin, end):
        slot = starts[row]
        if slot == starts[row + 1]:
            continue
        p, q, slope, reach = _ellipse(splats[row])
        known, p, q, slope = not math.isnan(reach), F(p), F(q), F(slope)
        for y in range(boxes[row, 2], boxes[row, 3]):
            for x in range(boxes[row, 0], boxes[row, 1]):
                place = splats[row, X] - F(TILE * x), splats[row, Y] - F(TILE * y)
                bits = _blocks_met(*place, p, q, slope) if known else ALL_BLOCKS
                blocks[slot] = bits
                counts[row] += bits != 0
                slot += 1


@njit(cache=True, error_model="numpy", nogil=True)
def _depth_order(begin, end, counts, bits):
    """Rows of ``[begin, end)`` with hits, by depth, ties by row: a radix sort of the bits of positive floats."""
    total = 0
    for row in range(begin, end):
        total += counts[row] > 0
    order, other = np.empty(total, np.int32), np.empty(total, np.int32)
    at = 0
    for row in range(begin, end):
        if counts[row] > 0:
            order[at] = row
            at += 1
    histogram = np.empty(2048, np.int64)
    for shift in (0, 11, 22):
        histogram[:] = 0
        for i in range(total):
            histogram[(bits[order[i]] >> shift) & 2047] += 1
        running = 0
        for i in range(2048):
            count = histogram[i]
            histogram[i] = running
            running += count
        for i in range(total):
            digit = (bits[order[i]] >> shift) & 2047
            other[histogram[digit]] = order[i]
            histogram[digit] += 1
        order, other = other, order
    return order


@njit(cache=True, error_model="numpy", nogil=True)
def _count_tiles(begin, end, boxes, starts, blocks, tiles_x, per_tile):
    """Add the hits of the rows ``begin`` to ``end`` to their tiles' numbers."""
    for row in range(begin, end):
        x0, x1, y0, y1 = boxes[row]
        slot = starts[row]
        for y in range(y0, y1):
            for x in range(x0, x1):
                per_tile[y * tiles_x + x] += blocks[slot] != 0
                slot += 1


@njit(cache=True, error_model="numpy", nogil=True)
def _fill_tiles(order, boxes, starts, blocks, tiles_x, cursor, hits):
    """Append each row, front to back, to its tiles' lists; ``cursor`` holds each tile's next free place."""
    for row in order:
        x0, x1, y0, y1 = boxes[row]
        slot = starts[row]
        for y in range(y0, y1):
            for x in range(x0, x1):
                if blocks[slot]:
                    tile = y * tiles_x + x
                    hit = hits[cursor[tile]]
                    hit[ROW], hit[BLOCKS], hit[SLOT] = row, np.int32(blocks[slot]), slot
                    cursor[tile] += 1
                slot += 1


def hit_keys(hits: TileHits, depths: np.ndarray, tiles: int) -> np.ndarray:
    """Give gsplat's key of each hit: ``camera | tile | depth bits``, with as many bits for the tile as it needs."""
    camera, tile = np.divmod(np.arange(len(hits.offsets) - 1), tiles)
    places = (camera << (32 + tiles.bit_length())) | (tile << 32)
    return np.repeat(places, np.diff(hits.offsets)) | depths.view(np.uint32)[hits.hits[:, ROW]]


def find_hits(rows: Sequence[np.ndarray], camera_starts: list[int], tiles_xy: tuple[int, int]) -> TileHits:
    """List the hits of all rows.

    Splats with non-finite opacity or colour get no hits. Memory is linear in rows plus hits.

    Args:
        rows: radii, means2d, depths, conics, opacities and colours, one line per row each.
        camera_starts: where each camera's rows begin; one entry more than there are cameras.
        tiles_xy: tiles across and down.
    """
    radii, means2d, depths, conics, opacities, colors = rows
    count, tiles = radii.shape[0], tiles_xy[0] * tiles_xy[1]
    splats = np.empty((count, COLOR + colors.shape[1]), np.float32)
    boxes, counts = np.zeros((count, 4), np.int32), np.zeros(count, np.int32)
    starts = np.zeros(count + 1, np.int32)
    table = (radii, means2d, conics, opacities, colors, *tiles_xy, splats, boxes, starts[1:])
    parallel_chunks(lambda begin, end: _bound_chunk(begin, end, *table), count, CHUNK)
    np.cumsum(starts, out=starts)
    blocks = np.zeros(starts[-1], np.uint32)
    parallel_chunks(lambda b, e: _mark_chunk(b, e, splats, boxes, starts, blocks, counts), count, CHUNK)
    offsets = np.zeros((len(camera_starts) - 1) * tiles + 1, np.int32)
    for camera, (begin, end) in enumerate(pairwise(camera_starts)):
        _count_tiles(begin, end, boxes, starts, blocks, tiles_xy[0], offsets[1 + camera * tiles :])
    np.cumsum(offsets, out=offsets)
    cursor = offsets[:-1].copy()
    hits = np.empty((offsets[-1], 3), np.int32)
    for camera, (begin, end) in enumerate(pairwise(camera_starts)):
        order = _depth_order(begin, end, counts, depths.view(np.uint32))
        _fill_tiles(order, boxes, starts, blocks, tiles_xy[0], cursor[camera * tiles :], hits)
    return TileHits(splats, counts, offsets, hits, starts, blocks)
