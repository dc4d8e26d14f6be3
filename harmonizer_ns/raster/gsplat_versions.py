# SPDX-License-Identifier: Apache-2.0
"""gsplat 1.4 and 1.5 differ in radii, arguments and opacity resets; all that the project knows of this is here.

From 1.5 on, meta's radii are two per Gaussian, along x and y, and strategies read them so; there are more arguments.
1.5.3 resets opacities where ``step % reset_every == 0 & step > 0``, which Python takes for ``0 > 0``: never.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import cache, wraps
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harmonizer_ns.raster.checks import require

_SAME_PICTURE = frozenset({"segmented"})
"""Arguments that only choose how gsplat computes."""


@cache
def gsplat_version() -> tuple[int, ...]:
    """Look up the installed gsplat, such as ``(1, 5, 3)``."""
    return tuple(map(int, re.findall(r"\d+", version("gsplat"))[:3]))


def meta_radii(radii: Int[Tensor, "*rows"], conics: Float[Tensor, "*rows 3"]) -> Int[Tensor, "*rows"]:
    """Give radii the form of the installed gsplat: one per Gaussian, or ``*rows 2``, along x and y.

    Args:
        radii: three standard deviations along the longest axis, in pixels; 0 where culled.
        conics: inverse image covariances (xx, xy, yy); ``ceil(3 s)`` of their standard deviations is returned.
    """
    if gsplat_version() < (1, 5):
        return radii
    xx, xy, yy = conics.detach().double().unbind(dim=-1)
    deviations = (torch.stack([yy, xx], dim=-1) / (xx * yy - xy * xy)[..., None]).sqrt()
    longest = radii[..., None].double()
    # Of needles, float32 conics may have no inverse.
    return torch.ceil(3 * deviations).nan_to_num(nan=torch.inf).minimum(longest).int()


def shown(radii: Int[Tensor, "*rows"]) -> Bool[Tensor, "*rows"]:
    """Tell from the radii of a meta, gsplat's or ours, which rows were not culled."""
    return radii > 0 if gsplat_version() < (1, 5) else (radii > 0).all(dim=-1)


def check_newer(options: Mapping[str, Any]) -> None:
    """Refuse arguments that only newer gsplats have, unless they stand at their defaults.

    Raises:
        TypeError: when the installed gsplat does not know an argument.
        ValueError: when the CPU does not support a value.
    """
    import gsplat

    known = inspect.signature(gsplat.rasterization).parameters
    for name, value in options.items():
        if name not in known:
            raise TypeError(f"rasterization() got an unexpected keyword argument {name!r}")
        default = known[name].default
        is_default = value is default or (not isinstance(value, Tensor) and value == default)
        require(
            is_default or name in _SAME_PICTURE, f"The CPU rasterizer supports {name} {default!r} only, got {value!r}"
        )


def mend_resets() -> None:
    """Make gsplat 1.5.3's `DefaultStrategy` reset opacities from now on; calling it again changes nothing more."""
    from gsplat.strategy import DefaultStrategy
    from gsplat.strategy.ops import reset_opa

    theirs = DefaultStrategy.step_post_backward
    if gsplat_version() != (1, 5, 3) or hasattr(theirs, "__wrapped__"):
        return

    @wraps(theirs)
    def step_post_backward(self: Any, params: Any, optimizers: Any, state: Any, step: int, *rest: Any, **named: Any):
        theirs(self, params, optimizers, state, step, *rest, **named)
        if 0 < step < self.refine_stop_iter and step % self.reset_every == 0:
            reset_opa(params=params, optimizers=optimizers, state=state, value=2 * self.prune_opa)

    DefaultStrategy.step_post_backward = step_post_backward
