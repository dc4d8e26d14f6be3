# SPDX-License-Identifier: Apache-2.0
"""Harmonizer makes 3D reconstructions look right from viewpoints nobody photographed.

Importing this package is cheap: the names below are loaded when they are first used. `distill.repairs` holds the
method, `enhancers` what repairs a render, `plugin` and gsplat_trainer the two trainers that use both.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harmonizer_ns.enhancers.base import Context
    from harmonizer_ns.enhancers.images import repair_image
    from harmonizer_ns.enhancers.specs import load_enhancer
    from harmonizer_ns.raster import rasterization
    from harmonizer_ns.types import Cameras, Frames

__version__ = "0.2.0"
__all__ = ["Cameras", "Context", "Frames", "load_enhancer", "rasterization", "repair_image"]
_HOMES = {
    "Cameras": "types",
    "Context": "enhancers.base",
    "Frames": "types",
    "load_enhancer": "enhancers.specs",
    "rasterization": "raster",
    "repair_image": "enhancers.images",
}


def __getattr__(name: str) -> Any:
    """Load a name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
