# SPDX-License-Identifier: Apache-2.0
"""Pseudo-views lie beside the checkpoints that name them, each in a PNG that is called by the hash of what it shows.

So a view is written once, however many checkpoints name it. It is on the disk before the first of them appears, and
goes when none names it any more: whenever a process ends, each checkpoint that is there is whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from harmonizer_ns.errors import InputError, damage_of
from harmonizer_ns.files import by_number, content_digest, written_whole
from harmonizer_ns.images import opened_image

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FASTEST = 1  # of zlib's levels; the slower ones gain a few percent
_ADVICE = "Earlier checkpoints are intact; make room and go on from the last one"


class WritesViews(Protocol):
    """What holds views."""

    def write(self, folder: Path) -> None:
        """Write those that are not there yet."""
        ...


def views_folder(checkpoints: Path) -> Path:
    """Where the views of the checkpoints in a folder lie: beside it, for nerfstudio takes every name in it for one."""
    folder = checkpoints.resolve()
    return folder.parent / f"{folder.name}_views"


@contextmanager
def views_beside(
    checkpoint: Path, store: WritesViews, pattern: str, named: Callable[[Path], set[str]], *, tidy: bool = True
) -> Iterator[None]:
    """Write the views before the block writes the checkpoint that names them; afterwards those that none names go.

    Args:
        checkpoint: to be.
        store: of its views.
        pattern: of all checkpoints in its folder.
        named: gives the digests that one names.
        tidy: whether views go.

    Raises:
        InputError: when a view cannot be written.
    """
    folder = views_folder(checkpoint.parent)
    try:
        store.write(folder)
        yield
    finally:
        if tidy:
            _remove_unnamed(folder, by_number(checkpoint.parent.glob(pattern)), named)


def _remove_unnamed(folder: Path, checkpoints: list[Path], named: Callable[[Path], set[str]]) -> None:
    """Delete the views that no checkpoint names; where a checkpoint cannot be read, all stay."""
    unnamed = {path.stem: path for path in folder.glob("*.png") if _DIGEST.fullmatch(path.stem)}
    with suppress(InputError, OSError):
        while unnamed and checkpoints:
            checkpoint = checkpoints.pop()  # the newest names most
            with damage_of(checkpoint):
                found = named(checkpoint)
            unnamed = {digest: path for digest, path in unnamed.items() if digest not in found}
        for path in unnamed.values():
            path.unlink(missing_ok=True)


def named_views(repairs: dict[str, Any] | None) -> set[str]:
    """The digests of the views that a saved state of `Repairs` names; earlier versions named none."""
    views = [] if repairs is None else repairs["store"]["views"]
    return {view["sha256"] for view in views if "sha256" in view}


def digest_of(pixels: UInt8[Tensor, "7 h w"]) -> str:
    """The sha256 of a view's size and bytes."""
    return content_digest((f"{pixels.shape[2]}x{pixels.shape[1]}", pixels))


def view_path(folder: Path, digest: str) -> Path:
    """Name a view's file.

    Raises:
        InputError: when a checkpoint names something else.
    """
    if not _DIGEST.fullmatch(digest):
        raise InputError(f"a pseudo-view should be named by a sha256, it is named {digest!r}")
    return folder / f"{digest}.png"


def write_view(path: Path, pixels: UInt8[Tensor, "7 h w"]) -> None:
    """Write the repaired colours, as opaque as each pixel is trusted, and the render below them.

    Raises:
        InputError: when the file cannot be written.
    """
    rgb, render, weight = pixels.split((3, 3, 1))
    image = torch.cat([torch.cat([rgb, weight]), torch.cat([render, torch.full_like(weight, 255)])], dim=1)
    with written_whole(path, _ADVICE) as partial:
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(partial, compress_level=_FASTEST)


def read_view(path: Path, width: int, height: int) -> UInt8[Tensor, "7 h w"]:
    """Read what `write_view` wrote for a view of this size.

    Raises:
        InputError: when the file is missing, or holds something else.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; keep that folder beside the checkpoints whose pseudo-views it holds")
    with opened_image(path) as image:
        if (image.mode, image.size) != ("RGBA", (width, 2 * height)):
            raise InputError(f"{path} is damaged: {image.mode} {image.size}, not RGBA {(width, 2 * height)}")
        both = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    pixels = torch.cat([both[:3, :height], both[:3, height:], both[3:, :height]])
    if digest_of(pixels) != path.stem:
        raise InputError(f"{path} is damaged: its pixels have another hash than its name says")
    return pixels
