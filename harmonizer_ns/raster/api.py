# SPDX-License-Identifier: Apache-2.0
"""`rasterization` with gsplat's signature: gsplat itself on CUDA, our kernels on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.raster.checks import TILE_SIZE, check_colors, check_options, check_shapes, require
from harmonizer_ns.raster.gsplat_versions import check_newer, meta_radii

if TYPE_CHECKING:
    from harmonizer_ns.raster.tiles import TileHits

MAX_CHANNELS = 32

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
Ids = tuple[Tensor, Tensor]  # camera and Gaussian of each packed row
Rendered = tuple[Float[Tensor, "c h w k"], Float[Tensor, "c h w 1"], dict[str, Any]]


def rasterization(means: Float[Tensor, "n 3"], *args: Any, **kwargs: Any) -> Rendered:
    """Render Gaussians; see `rasterization_cpu` for the arguments, which are those of `gsplat.rasterization`.

    The device of ``means`` decides: CPU tensors go to `rasterization_cpu`, all others to gsplat.

    Raises:
        InputError: when gsplat has no kernels for a GPU and cannot compile any.
    """
    if means.device.type == "cpu":
        return rasterization_cpu(means, *args, **kwargs)
    import gsplat

    from harmonizer_ns.raster import gsplat_kernels

    if means.device.type == "cuda":
        gsplat_kernels.load_gsplat_kernels()
    return gsplat.rasterization(means, *args, **kwargs)


def _rgb(
    colors: Tensor, sh_degree: int | None, means: Tensor, viewmats: Tensor, rows: Tensor, ids: Ids | None
) -> Tensor:
    """Colours per projected row, ``*rows k``; ``ids`` are (camera, Gaussian) of the rows when packed."""
    cameras, count = rows.shape
    shape = (cameras, count) if ids is None else (len(ids[0]),)
    if sh_degree is not None:
        from harmonizer_ns.raster.harmonics import harmonic_colors

        # The centre is -R^T t for a rigid view; the inverse holds for any, as in gsplat.
        centers = torch.inverse(viewmats)[:, :3, 3]
        return harmonic_colors(sh_degree, means, centers, colors if colors.dim() == 4 else colors[None], rows, shape)
    if ids is None:
        return colors.expand(cameras, -1, -1)
    return colors[ids[1]] if colors.dim() == 2 else colors[ids]


def _with_depth(colors: Tensor | None, depths: Tensor, render_mode: str) -> Tensor:
    """The channels to composite, depth last."""
    if colors is None or render_mode in ("D", "ED"):
        return depths[..., None]
    return colors if render_mode == "RGB" else torch.cat([colors, depths[..., None]], dim=-1)


def _backgrounds(backgrounds: Tensor | None, cameras: int, channels: int, render_mode: str) -> Tensor:
    """One background per camera and channel; depth has none."""
    if backgrounds is None or render_mode in ("D", "ED"):
        return torch.zeros(cameras, channels)
    colors = channels if render_mode == "RGB" else channels - 1
    require(
        tuple(backgrounds.shape) == (cameras, colors),
        f"backgrounds must have shape {(cameras, colors)}, got {tuple(backgrounds.shape)}",
    )
    return torch.nn.functional.pad(backgrounds.float(), (0, channels - colors))


def _shapes(
    quats: Tensor | None, scales: Tensor | None, covars: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Quaternions and scales, or the upper triangles of the covariances, in float32."""
    if covars is not None:
        upper = torch.triu_indices(3, 3)
        return None, None, covars[:, upper[0], upper[1]].float()
    return None if quats is None else quats.float(), None if scales is None else scales.float(), None


def _camera_starts(ids: Ids | None, cameras: int, count: int) -> list[int]:
    """Where each camera's rows begin, with the end appended."""
    if ids is None:
        return list(range(0, count + 1, count // cameras)) if count else [0] * (cameras + 1)
    return [0, *torch.bincount(ids[0], minlength=cameras).cumsum(0).tolist()]


def _row_ids(rows: Tensor) -> Ids:
    """Camera and Gaussian of each packed row."""
    camera_ids, gaussian_ids = torch.where(rows >= 0)
    return camera_ids, gaussian_ids


def _find_hits(
    splats: tuple[Tensor, ...], ids: Ids | None, cameras: int, width: int, height: int
) -> tuple[TileHits, tuple[int, int]]:
    """The tile lists of projected splats, and the numbers of tiles across and down."""
    from harmonizer_ns.raster.tiles import find_hits

    axes = splats[0].dim() - 1
    flat = [tensor.detach().flatten(0, axes).contiguous().numpy() for tensor in splats]
    tiles = (-(-width // TILE_SIZE), -(-height // TILE_SIZE))
    return find_hits(flat, _camera_starts(ids, cameras, len(flat[0])), tiles), tiles


def _composite(
    splats: tuple[Tensor, ...],
    backgrounds: Tensor,
    hits: TileHits,
    size: tuple[int, int],
    tiles: tuple[int, int],
    absgrad: bool,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Rasterize ``chunk`` channels at a time."""
    from harmonizer_ns.raster.pixels import rasterize

    _, means2d, _, conics, opacities, colors = splats
    images, alphas = [], []
    for part, background in zip(colors.split(chunk, dim=-1), backgrounds.split(chunk, dim=-1), strict=True):
        image, alpha = rasterize(means2d, conics, opacities, part, background, hits, size, tiles, absgrad)
        images.append(image)
        alphas.append(alpha)
    return images[0] if len(images) == 1 else torch.cat(images, dim=-1), alphas[0]


def _meta(splats: tuple[Tensor, ...], ids: Ids | None, hits: TileHits, tiles: tuple[int, int]) -> dict[str, Any]:
    """What gsplat tells about intermediate results."""
    from harmonizer_ns.raster.tiles import ROW, hit_keys

    radii, means2d, depths, conics, opacities, _ = splats
    camera_ids, gaussian_ids = ids if ids is not None else (None, None)
    return {
        "camera_ids": camera_ids,
        "gaussian_ids": gaussian_ids,
        "radii": meta_radii(radii, conics),
        "means2d": means2d,
        "depths": depths,
        "conics": conics,
        "opacities": opacities,
        "tile_width": tiles[0],
        "tile_height": tiles[1],
        "tiles_per_gauss": torch.from_numpy(hits.counts).reshape(depths.shape),
        "isect_ids": torch.from_numpy(hit_keys(hits, depths.detach().reshape(-1).numpy(), tiles[0] * tiles[1])),
        "flatten_ids": torch.from_numpy(hits.hits[:, ROW].copy()),
        "isect_offsets": torch.from_numpy(hits.offsets[:-1]).reshape(-1, tiles[1], tiles[0]),
    }


def rasterization_cpu(
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"] | None,
    scales: Float[Tensor, "n 3"] | None,
    opacities: Float[Tensor, " n"],
    colors: Tensor,
    viewmats: Float[Tensor, "c 4 4"],
    Ks: Float[Tensor, "c 3 3"],  # noqa: N803 (gsplat's name)
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = True,
    tile_size: int = TILE_SIZE,
    backgrounds: Float[Tensor, "c k"] | None = None,
    render_mode: RenderMode = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    channel_chunk: int = MAX_CHANNELS,
    distributed: bool = False,
    camera_model: Literal["pinhole", "ortho", "fisheye"] = "pinhole",
    covars: Float[Tensor, "n 3 3"] | None = None,
    **newer: Any,
) -> Rendered:
    """Rasterize Gaussians on the CPU, differentiable in everything but ``Ks``.

    Follows gsplat 1.4's rules: alphas below 1/255 are skipped, alphas are clamped to 0.999, a pixel stops before
    transmittance 1e-4, radii are three standard deviations. Gaussians with non-finite parameters are culled.

    Args:
        means: centres, world space.
        quats: rotations (w, x, y, z), any length but zero; may be None with ``covars``.
        scales: standard deviations; may be None with ``covars``.
        opacities: in [0, 1].
        colors: ``[(C,) N, D]`` values, or ``[(C,) N, K, 3]`` spherical harmonics with ``sh_degree``.
        viewmats: world-to-camera, OpenCV axes.
        Ks: intrinsics in pixels.
        width: of the images, in pixels.
        height: of the images, in pixels.
        near_plane: smallest z-depth drawn.
        far_plane: largest z-depth drawn.
        radius_clip: Gaussians of at most this radius (pixels) are skipped.
        eps2d: added to the diagonal of the image covariance, in square pixels.
        sh_degree: 0 to 3, or None where ``colors`` are values.
        packed: whether meta lists only visible (camera, Gaussian) pairs; the images are the same.
        tile_size: 16.
        backgrounds: composited behind the colours, not behind depth.
        render_mode: colours, accumulated depth (D), expected depth (ED) or both; depth is the last channel.
        sparse_grad: not supported.
        absgrad: whether the backward pass sets ``meta["means2d"].absgrad``.
        rasterize_mode: "antialiased" multiplies opacities by the Mip-Splatting compensation.
        channel_chunk: channels composited at a time, 1 to 32.
        distributed: not supported.
        camera_model: "pinhole".
        covars: world covariances instead of ``quats`` and ``scales``; only the upper triangle is read.
        newer: arguments that gsplat has had since 1.5, at their defaults.

    Returns:
        images ``[C, H, W, D]``, alphas ``[C, H, W, 1]`` and gsplat's meta. ``tiles_per_gauss``, ``isect_ids``,
        ``isect_offsets`` and ``flatten_ids`` leave out the tiles that a Gaussian cannot colour.

    Raises:
        ValueError: on options the CPU does not support and on shapes that do not fit.
    """
    check_options(render_mode, rasterize_mode, camera_model, tile_size, sparse_grad, distributed)
    check_newer(newer)
    check_shapes(means, quats, scales, covars, opacities, viewmats, Ks)
    check_colors(colors, viewmats.shape[0], means.shape[0], sh_degree)
    require(width > 0 and height > 0, f"The image size must be positive, got {width}x{height}")
    require(channel_chunk >= 1, f"channel_chunk must be at least 1, got {channel_chunk}")
    from harmonizer_ns.raster.projection import ProjectionSettings, project

    cameras = viewmats.shape[0]
    means, opacities, colors, viewmats = means.float(), opacities.float(), colors.float(), viewmats.float()
    settings = ProjectionSettings(width, height, eps2d, near_plane, far_plane, radius_clip, packed)
    shapes = _shapes(quats, scales, covars)
    radii, means2d, depths, conics, compensations, rows = project(means, *shapes, viewmats, Ks, settings)
    ids = _row_ids(rows) if packed else None

    row_opacities = opacities.expand(cameras, -1) if ids is None else opacities[ids[1]]
    if rasterize_mode == "antialiased":
        row_opacities = row_opacities * compensations
    rgb = None if render_mode in ("D", "ED") else _rgb(colors, sh_degree, means, viewmats, rows, ids)
    channels = _with_depth(rgb, depths, render_mode)

    splats = (radii, means2d, depths, conics, row_opacities, channels)
    hits, tiles = _find_hits(splats, ids, cameras, width, height)
    behind = _backgrounds(backgrounds, cameras, channels.shape[-1], render_mode)
    chunk = min(channel_chunk, MAX_CHANNELS)
    image, alpha = _composite(splats, behind, hits, (width, height), tiles, absgrad, chunk)
    if render_mode.endswith("ED"):
        image = torch.cat([image[..., :-1], image[..., -1:] / alpha.clamp(min=1e-10)], dim=-1)
    size = {"width": width, "height": height, "tile_size": tile_size, "n_cameras": cameras}
    return image, alpha, _meta(splats, ids, hits, tiles) | size
