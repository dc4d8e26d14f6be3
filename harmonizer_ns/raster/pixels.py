# SPDX-License-Identifier: Apache-2.0
# Arguments of numba kernels are unpacked from tuples, and intrinsics hide their first argument.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
"""Projected splats to pixels as one differentiable operation on tensors."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.raster.pixel_kernels import MOMENTS, backward_tiles, forward_tiles, gather_hits
from harmonizer_ns.raster.threads import parallel_chunks
from harmonizer_ns.raster.tiles import COLOR, TileHits

TILES_PER_TASK = 8
ROWS_PER_TASK = 4096
# Compiled channel counts; others are padded to the next one.
WIDTHS = (1, 3, 4, 8, 16, 32)


def _compiled_width(channels: int) -> int:
    return next(width for width in WIDTHS if width >= channels)


def _pad(array: np.ndarray, width: int) -> np.ndarray:
    """Zeros appended to the last axis, contiguous float32."""
    missing = width - array.shape[-1]
    if missing == 0:
        return np.ascontiguousarray(array, dtype=np.float32)
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means2d, conics, opacities, colors, backgrounds, hits, size, tiles, absgrad):
        channels, width = colors.shape[-1], _compiled_width(colors.shape[-1])
        splats = hits.splats
        if splats.shape[1] != COLOR + width:
            table = _pad(colors.detach().reshape(-1, channels).numpy(), width)
            splats = np.concatenate([splats[:, :COLOR], table], axis=1)
        shape = (backgrounds.shape[0], size[1], size[0])
        image, light = np.empty((*shape, width), np.float32), np.empty(shape, np.float32)
        constant = (_pad(backgrounds.detach().numpy(), width), *tiles)
        tag = (0,) * width

        def task(begin: int, end: int) -> None:
            forward_tiles(begin, end, splats, hits.hits, hits.offsets, *constant, image, light, tag)

        parallel_chunks(task, len(hits.offsets) - 1, TILES_PER_TASK)
        ctx.save_for_backward(means2d)
        ctx.arrays, ctx.hits, ctx.tiles, ctx.absgrad = (splats, image, light), hits, tiles, absgrad
        ctx.channels, ctx.rows = channels, colors.shape[:-1]
        return torch.from_numpy(image)[..., :channels].clone(), torch.from_numpy(1.0 - light)[..., None]

    @staticmethod
    def backward(ctx, v_image, v_alpha):
        splats, image, light = ctx.arrays
        hits, width = ctx.hits, image.shape[-1]
        v_image = v_image.detach()
        v_padded = _pad(v_image.numpy(), width)
        v_light = np.ascontiguousarray(-v_alpha.detach().numpy()[..., 0])
        tag, absolute = (0,) * width, (0, 0) if ctx.absgrad else ()
        grads = np.empty((len(hits.blocks), MOMENTS + len(absolute) + width), np.float32)
        tile_inputs = (splats, hits.hits, hits.offsets, *ctx.tiles, image, light, v_padded, v_light)

        def tile_task(begin: int, end: int) -> None:
            backward_tiles(begin, end, *tile_inputs, grads, absolute, tag)

        parallel_chunks(tile_task, len(hits.offsets) - 1, TILES_PER_TASK)
        rows = len(hits.starts) - 1
        sizes = (2, 3, None, len(absolute), ctx.channels)
        outputs = [np.zeros(rows if k is None else (rows, k), np.float32) for k in sizes]
        inputs = (splats, hits.starts, hits.blocks, grads)
        parallel_chunks(lambda b, e: gather_hits(b, e, *inputs, *outputs), rows, ROWS_PER_TASK)
        v_means2d, v_conics, v_opacities, v_absolute, v_colors = (
            torch.from_numpy(array).reshape(*ctx.rows, *array.shape[1:]) for array in outputs
        )
        if ctx.absgrad:
            ctx.saved_tensors[0].absgrad = v_absolute
        v_backgrounds = (v_image * torch.from_numpy(light)[..., None]).sum(dim=(1, 2))
        return v_means2d, v_conics, v_opacities, v_colors, v_backgrounds, None, None, None, None


def rasterize(
    means2d: Float[Tensor, "*rows 2"],
    conics: Float[Tensor, "*rows 3"],
    opacities: Float[Tensor, "*rows"],
    colors: Float[Tensor, "*rows k"],
    backgrounds: Float[Tensor, "c k"],
    hits: TileHits,
    size: tuple[int, int],
    tiles: tuple[int, int],
    absgrad: bool,
) -> tuple[Float[Tensor, "c h w k"], Float[Tensor, "c h w 1"]]:
    """Composite the splats of ``hits``, front to back, over the backgrounds.

    Args:
        means2d: centres in pixels; gets ``.absgrad`` in the backward pass if asked.
        conics: inverse covariances (xx, xy, yy).
        opacities: in [0, 1].
        colors: any ``k`` from 1 to 32.
        backgrounds: one colour per camera.
        hits: the tile lists of exactly these splats.
        size: width and height in pixels.
        tiles: tiles across and down.
        absgrad: whether to sum ``|dL/d means2d|`` over pixels.

    Returns:
        image and accumulated alpha.
    """
    return _Rasterize.apply(means2d, conics, opacities, colors, backgrounds, hits, size, tiles, absgrad)
