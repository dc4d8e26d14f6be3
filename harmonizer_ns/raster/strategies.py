# SPDX-License-Identifier: Apache-2.0
"""What gsplat's `MCMCStrategy` needs on a CPU (`DefaultStrategy` needs nothing).

gsplat computes relocations and covariances with CUDA kernels only. `use_cpu_ops` replaces these two functions in
`gsplat.strategy.ops` by versions that look at the device of their tensors: CPU tensors are handled here, all others go
to gsplat's own functions. Importing this module changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harmonizer_ns.poses import quaternion_to_rotation


def compute_relocation(
    opacities: Tensor,
    scales: Float[Tensor, "n 3"],
    ratios: Int[Tensor, " n"],
    binoms: Float[Tensor, "n_max n_max"],
) -> tuple[Tensor, Float[Tensor, "n 3"]]:
    """Opacity and scales of ``N = ratios`` equal Gaussians that together look like one.

    Equation 9 of 3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al. 2024)::

        o' = 1 - (1 - o)^(1/N)
        s' = s o / sum_{i=1..N} sum_{k=0..i-1} binom(i-1, k) (-1)^k o'^(k+1) / sqrt(k+1)

    Args:
        opacities: in [0, 1], shape ``n`` or ``n 1``.
        scales: standard deviations.
        ratios: how many Gaussians replace each one; clamped in place to [1, n_max], as gsplat does.
        binoms: ``binoms[i, k]`` is the binomial coefficient.

    Returns:
        new opacities, shaped like ``opacities``, and new scales.
    """
    ratios.clamp_(min=1, max=binoms.shape[0])
    old = opacities.reshape(-1).double()
    counts = ratios.reshape(-1)
    new = -torch.expm1(torch.log1p(-old.clamp(max=1 - 1e-12)) / counts)
    most = int(counts.max()) if len(counts) else 0
    powers = torch.arange(most, dtype=torch.float64)
    terms = (-1.0) ** powers * new[:, None] ** (powers + 1) / torch.sqrt(powers + 1)
    # Summing binom(i-1, k) over i <= N first leaves one coefficient per (N, k).
    coefficients = binoms[:most, :most].double().cumsum(dim=0)[counts - 1]
    scale = old / (coefficients * terms).sum(dim=1)
    return new.to(opacities.dtype).reshape(opacities.shape), (scales * scale[:, None]).to(scales.dtype)


def _symmetric(factor: Float[Tensor, "n 3 3"], triu: bool) -> Tensor:
    product = factor @ factor.transpose(1, 2)
    rows, columns = torch.triu_indices(3, 3)
    return product[:, rows, columns] if triu else product


def quat_scale_to_covar_preci(
    quats: Float[Tensor, "n 4"],
    scales: Float[Tensor, "n 3"],
    compute_covar: bool = True,
    compute_preci: bool = True,
    triu: bool = False,
) -> tuple[Tensor | None, Tensor | None]:
    """Covariances ``Q diag(s)^2 Q^T`` and their inverses.

    Args:
        quats: rotations (w, x, y, z), any length but zero.
        scales: standard deviations.
        compute_covar: whether to compute the covariances (else None).
        compute_preci: whether to compute the inverses (else None).
        triu: whether to return upper triangles, ``n 6``, instead of ``n 3 3``.
    """
    rotation = quaternion_to_rotation(torch.nn.functional.normalize(quats, dim=-1))
    covariances = _symmetric(rotation * scales[:, None, :], triu) if compute_covar else None
    precisions = _symmetric(rotation / scales[:, None, :], triu) if compute_preci else None
    return covariances, precisions


def _by_device(ours: Callable[..., Any], theirs: Callable[..., Any]) -> Callable[..., Any]:
    """``ours`` for CPU tensors, ``theirs`` for the rest; gsplat calls them by keyword and by position."""

    def dispatch(*args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else next(iter(kwargs.values()))
        return (ours if first.device.type == "cpu" else theirs)(*args, **kwargs)

    dispatch.cpu_version = ours  # type: ignore[attr-defined]
    return dispatch


def use_cpu_ops() -> None:
    """Make gsplat's strategies work on CPU tensors from now on; calling it again changes nothing more."""
    from gsplat.strategy import ops

    for ours in (compute_relocation, quat_scale_to_covar_preci):
        theirs = getattr(ops, ours.__name__)
        if getattr(theirs, "cpu_version", None) is not ours:
            setattr(ops, ours.__name__, _by_device(ours, theirs))
