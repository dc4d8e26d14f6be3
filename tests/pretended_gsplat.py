# SPDX-License-Identifier: Apache-2.0
"""gsplat on the pretended GPU: it takes what its CUDA kernels take, and the CPU's kernels compute."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from pretended_cuda import inside, is_up, put
from torch import Tensor

from harmonizer_ns.raster import gsplat_kernels, strategies
from harmonizer_ns.raster.api import rasterization_cpu


def _rasterization(means: Tensor, *args: Any, absgrad: bool = False, **kwargs: Any) -> tuple[Tensor, Tensor, Any]:
    """`gsplat.rasterization` of tensors on the device: computed by the CPU's kernels."""
    given = _tensors([means, *args, *kwargs.values()])
    if not all(is_up(tensor) and tensor.dtype == torch.float32 for tensor in given):
        raise RuntimeError("gsplat takes float32 tensors on cuda:0 only")
    with inside():
        args, kwargs = tuple(map(_entering, args)), {name: _entering(value) for name, value in kwargs.items()}
        image, alpha, meta = rasterization_cpu(_entering(means), *args, absgrad=absgrad, **kwargs)
    for tensor in (image, alpha):
        put(tensor)
    for name, value in meta.items():  # backward kernels index with what carries no gradient, and are not watched
        if isinstance(value, Tensor):
            meta[name] = put(value if value.requires_grad else value.clone())
    means2d = meta["means2d"]
    if means2d.requires_grad:
        means2d.register_hook(lambda gradient: _leaving(gradient, means2d if absgrad else None))
    return image, alpha, meta


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]


def _entering(value: Any) -> Any:
    """An argument whose gradient lies on the device again."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return value
    value = value.view_as(value)
    value.register_hook(_leaving)
    return value


def _leaving(gradient: Tensor, means2d: Tensor | None = None) -> None:
    put(gradient)
    if means2d is not None:
        put(means2d.absgrad)


def _on_the_device(operation: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel of gsplat's strategies."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with inside():
            results = operation(*args, **kwargs)
        return tuple(None if result is None else put(result) for result in results)

    return run


def pretend_gsplat(patch: pytest.MonkeyPatch) -> None:
    """gsplat draws on the device while this lasts."""
    from gsplat.strategy import ops

    patch.setattr(gsplat_kernels, "load_gsplat_kernels", lambda: None)
    patch.setattr("gsplat.rasterization", _rasterization)
    if "nerfstudio.models.splatfacto" in sys.modules:  # it has its own name for it
        patch.setattr("nerfstudio.models.splatfacto.rasterization", _rasterization)
    for operation in (strategies.compute_relocation, strategies.quat_scale_to_covar_preci):
        patch.setattr(ops, operation.__name__, _on_the_device(operation))
