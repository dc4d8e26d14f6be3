# SPDX-License-Identifier: Apache-2.0
"""Reports tell where a run came from: capture, enhancer, versions, settings."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns import __version__
from harmonizer_ns.enhancers.digest import weights_digest
from harmonizer_ns.files import content_digest
from harmonizer_ns.types import Cameras


@dataclass(frozen=True)
class Origin:
    """Holds where a run came from.

    Args:
        folder: of the capture.
        photos: cameras that it learned from.
        held_out: cameras that it was measured with.
        points: seed points.
        content: of all photos: their pixels and masks, or digests of their files.
        settings: of the run.
    """

    folder: Path | str | None
    photos: Sequence[Cameras]
    held_out: Sequence[Cameras]
    points: Float[Tensor, "p 3"] | None
    content: Sequence[Tensor | str] = ()
    settings: dict[str, Any] = field(default_factory=dict)


def provenance(origin: Origin, enhancer: str) -> dict[str, Any]:
    """What another run must share to be comparable."""
    return {
        "enhancer": {
            "name": enhancer,
            "sha256 of its weights": weights_digest(enhancer),
        },
        "capture": {
            "folder": origin.folder,
            "photos": len(origin.photos),
            "held out": len(origin.held_out),
            "sha256 of photos, cameras and points": _capture_digest(origin),
        },
        "versions": versions(),
        "run": origin.settings,
    }


def _capture_digest(origin: Origin) -> str:
    parts: list[Tensor | str] = [repr((len(origin.photos), len(origin.held_out)))]
    for camera in (*origin.photos, *origin.held_out):
        parts += [repr((camera.width, camera.height)), camera.camera_to_world, camera.intrinsics]
    return content_digest([*parts, *([] if origin.points is None else [origin.points]), *origin.content])


def versions() -> dict[str, str]:
    """Versions of what figures depend on, as far as it is installed, and the device."""
    found = {"harmonizer": __version__, "python": platform.python_version()}
    for name in ("torch", "gsplat", "nerfstudio"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {**found, "device": device, "threads": str(torch.get_num_threads())}
