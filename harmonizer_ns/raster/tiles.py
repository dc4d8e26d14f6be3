# SPDX-License-Identifier: Apache-2.0
"""Which splats touch which 16x16 tile, front to back.

A splat colours a pixel only where ``alpha = o exp(-sigma) >= 1/255``, that is inside the ellipse
``sigma <= ln(255 o)``. A tile is listed for a splat if gsplat lists it (it meets the square of the splat's radius)
and the ellipse's bounding box meets it: fewer hits than gsplat's, the same image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit

from harmonizer_ns.raster.threads import parallel_chunks

TILE = 16
CHUNK = 4096

# Columns of the splat table that the pixel kernels read; colours follow.
X, Y, CONIC_XX, CONIC_XY, CONIC_YY, OPACITY, HALF_HEIGHT, LIMIT, SLOPE, COLOR = range(10)


@dataclass(frozen=True)
class TileHits:
    """Splat-tile pairs of all cameras, sorted by camera, tile (row-major), depth.

    Args:
        splats: one line per projected row, columns as named above (9 geometry values, then colours).
        counts: number of tiles of each row.
        offsets: where each tile's hits begin; one entry more than there are tiles.
        ids: the row of each hit.
        slots: each hit's rank when sorted by row and then tile.
        starts: where each row's slots begin; one entry more than there are rows.
        keys: ``camera | tile | depth bits`` as in gsplat.
    """

    splats: np.ndarray
    counts: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray
    slots: np.ndarray
    starts: np.ndarray
    keys: np.ndarray


@njit(cache=True, error_model="numpy", nogil=True)
def _drawable(row, radii, opacities, colors):
    if radii[row] <= 0 or not (opacities[row] >= 1.0 / 255.0 and opacities[row] < np.inf):
        return False
    return bool(np.all(np.isfinite(colors[row])))


@njit(cache=True, error_model="numpy", nogil=True)
def _tile_range(center, half, tiles):
    low = min(max(math.floor((center - half) / TILE), 0.0), float(tiles))
    high = min(max(math.ceil((center + half) / TILE), 0.0), float(tiles))
    return np.int32(low), np.int32(high)


@njit(cache=True, error_model="numpy", nogil=True)
def _bound_chunk(begin, end, radii, means2d, conics, opacities, colors, tiles_x, tiles_y, splats, boxes, counts):
    """Fill the splat table, the tile box and the number of tiles of the rows ``begin`` to ``end``."""
    for row in range(begin, end):
        if not _drawable(row, radii, opacities, colors):
            continue
        a, b, c = np.float64(conics[row, 0]), np.float64(conics[row, 1]), np.float64(conics[row, 2])
        limit = math.log(255.0 * opacities[row]) * 1.0001 + 1e-4  # rounding must not lose a pixel
        det = a * c - b * b
        half_x = half_y = np.float64(radii[row])
        reach_y = np.inf
        if det > 1e-6 * a * c:  # otherwise float32 conics do not determine the ellipse
            reach_y = math.sqrt(2.0 * limit * a / det)
            half_x, half_y = min(half_x, math.sqrt(2.0 * limit * c / det)), min(half_y, reach_y)
        x0, x1 = _tile_range(means2d[row, 0], half_x, tiles_x)
        y0, y1 = _tile_range(means2d[row, 1], half_y, tiles_y)
        boxes[row, 0], boxes[row, 1], boxes[row, 2], boxes[row, 3] = x0, x1, y0, y1
        counts[row] = (x1 - x0) * (y1 - y0)
        line = splats[row]
        line[X], line[Y] = means2d[row, 0], means2d[row, 1]
        line[CONIC_XX], line[CONIC_XY], line[CONIC_YY] = conics[row, 0], conics[row, 1], conics[row, 2]
        line[OPACITY], line[HALF_HEIGHT], line[LIMIT] = opacities[row], min(reach_y, 1e6), limit
        line[SLOPE] = -b / a
        for k in range(colors.shape[1]):
            line[COLOR + k] = colors[row, k]


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
def _count_tiles(order, boxes, tiles_x, per_tile):
    for row in order:
        x0, x1, y0, y1 = boxes[row]
        for y in range(y0, y1):
            for x in range(x0, x1):
                per_tile[y * tiles_x + x] += 1


@njit(cache=True, error_model="numpy", nogil=True)
def _fill_tiles(order, boxes, tiles_x, bits, camera_key, starts, cursor, ids, slots, keys):
    """Append each row, front to back, to its tiles' lists; ``cursor`` holds each tile's next free place."""
    for row in order:
        x0, x1, y0, y1 = boxes[row]
        slot = starts[row]
        depth = np.int64(bits[row])
        for y in range(y0, y1):
            for x in range(x0, x1):
                tile = y * tiles_x + x
                at = cursor[tile]
                cursor[tile] = at + 1
                ids[at] = row
                slots[at] = slot
                keys[at] = camera_key | (np.int64(tile) << 32) | depth
                slot += 1


def find_hits(rows: Sequence[np.ndarray], camera_starts: list[int], tiles_xy: tuple[int, int]) -> TileHits:
    """List the hits of all rows.

    Splats with non-finite opacity or colour get no hits. Memory is linear in rows plus hits.

    Args:
        rows: radii, means2d, depths, conics, opacities and colours, one line per row each.
        camera_starts: where each camera's rows begin; one entry more than there are cameras.
        tiles_xy: tiles across and down.
    """
    radii, means2d, depths, conics, opacities, colors = rows
    tiles_x, tiles_y = tiles_xy
    count, tiles = radii.shape[0], tiles_x * tiles_y
    splats = np.empty((count, COLOR + colors.shape[1]), np.float32)
    boxes, counts = np.zeros((count, 4), np.int32), np.zeros(count, np.int32)
    parallel_chunks(
        lambda b, e: _bound_chunk(
            b, e, radii, means2d, conics, opacities, colors, tiles_x, tiles_y, splats, boxes, counts
        ),
        count,
        CHUNK,
    )
    bits = depths.view(np.uint32)
    orders = [_depth_order(b, e, counts, bits) for b, e in pairwise(camera_starts)]
    offsets = np.zeros(len(orders) * tiles + 1, np.int32)
    for camera, order in enumerate(orders):
        _count_tiles(order, boxes, tiles_x, offsets[1 + camera * tiles :])
    np.cumsum(offsets, out=offsets)
    starts = np.zeros(count + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    cursor = offsets[:-1].copy()
    ids, slots, keys = (np.empty(offsets[-1], kind) for kind in (np.int32, np.int32, np.int64))
    for camera, order in enumerate(orders):
        own = cursor[camera * tiles : (camera + 1) * tiles]
        camera_key = np.int64(camera << (32 + tiles.bit_length()))
        _fill_tiles(order, boxes, tiles_x, bits, camera_key, starts, own, ids, slots, keys)
    return TileHits(splats, counts, offsets, ids, slots, starts, keys)
