# SPDX-License-Identifier: Apache-2.0
"""What the CPU rasterizer accepts, with errors that name the offending value."""

from __future__ import annotations

from torch import Tensor

TILE_SIZE = 16
RENDER_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")


def require(condition: bool, message: str) -> None:
    """Raise a ``ValueError`` with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_options(
    render_mode: str, rasterize_mode: str, camera_model: str, tile_size: int, sparse_grad: bool, distributed: bool
) -> None:
    """Raise a ``ValueError`` for an option the CPU does not support."""
    require(render_mode in RENDER_MODES, f"render_mode must be one of {RENDER_MODES}, got {render_mode!r}")
    require(
        rasterize_mode in ("classic", "antialiased"),
        f"rasterize_mode must be 'classic' or 'antialiased', got {rasterize_mode!r}",
    )
    require(camera_model == "pinhole", f"The CPU rasterizer supports camera_model 'pinhole', got {camera_model!r}")
    require(tile_size == TILE_SIZE, f"The CPU rasterizer supports tile_size {TILE_SIZE}, got {tile_size}")
    require(not sparse_grad, "The CPU rasterizer gives dense gradients only, got sparse_grad=True")
    require(not distributed, "The CPU rasterizer runs in one process, got distributed=True")


def check_shapes(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    covars: Tensor | None,
    opacities: Tensor,
    viewmats: Tensor,
    intrinsics: Tensor,
) -> None:
    """Raise a ``ValueError`` unless shapes and devices fit together."""
    n, c = means.shape[0], viewmats.shape[0]
    expected = {"means": (means, (n, 3)), "opacities": (opacities, (n,))}
    expected |= {"viewmats": (viewmats, (c, 4, 4)), "Ks": (intrinsics, (c, 3, 3))}
    if covars is None:
        expected |= {"quats": (quats, (n, 4)), "scales": (scales, (n, 3))}
    else:
        expected["covars"] = (covars, (n, 3, 3))
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            raise ValueError(f"{name} is needed where covars is None")
        require(tuple(tensor.shape) == shape, f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
        require(tensor.device.type == "cpu", f"{name} must be on the CPU like means, got {tensor.device}")


def check_colors(colors: Tensor, cameras: int, count: int, sh_degree: int | None) -> None:
    """Raise a ``ValueError`` unless the colours fit the Gaussians, cameras and degree."""
    shape = tuple(colors.shape)
    if sh_degree is None:
        fits = shape[:-1] in ((count,), (cameras, count)) and shape[-1] > 0
        require(fits, f"colors must have shape [(C,) N, D] with C={cameras}, N={count}, got {shape}")
        return
    fits = shape[:-2] in ((count,), (cameras, count)) and shape[-1] == 3
    require(fits, f"SH colors must have shape [(C,) N, K, 3] with C={cameras}, N={count}, got {shape}")
    require((sh_degree + 1) ** 2 <= shape[-2], f"sh_degree {sh_degree} needs {(sh_degree + 1) ** 2} bands, got {shape}")
