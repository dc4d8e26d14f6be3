# SPDX-License-Identifier: Apache-2.0
"""Streams take sources and give damaged frames with their targets; these are the types."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import load_image, resize, to_float, to_uint8
from harmonizer_ns.types import Cameras, Frames

Source = Literal["clip", "capture", "nothing"]
"""What a stream damages: a `Clip` of photos, a whole capture, or nothing: it makes its own."""


@dataclass(frozen=True)
class Clip:
    """A clip is neighbouring frames of one scene, of one size; a photo is a clip of one.

    Args:
        files: where they came from.
        frames: their colours in [0, 1], multiples of 1/255: what is left alone stays the same in a PNG.
        cameras: one for each frame, where the scene is a capture.
    """

    files: tuple[Path, ...]
    frames: Float[Tensor, "n 3 h w"]
    cameras: Cameras | None = None


@dataclass(frozen=True)
class NamedPhotos:
    """These are photos of the scene that an enhancer may look at, best first.

    Args:
        names: one for each, the same wherever the same photo is shown (a file's stem).
        frames: the photos, with rendered depth, of the damaged image's size.
    """

    names: tuple[str, ...]
    frames: Frames


@dataclass(frozen=True)
class Made:
    """A damaged frame is made together with what it should look like.

    Args:
        image: damaged colours in [0, 1].
        target: what it should look like.
        parameters: all that was drawn, JSON.
        mask: how far each pixel was changed, in [0, 1]; None where damage is everywhere.
        geometry: opacity, z-depth and camera of the damaged image (a batch of one), where they are known.
        references: photos with depth and cameras in the frame of ``geometry``.
        clip: number of its clip among those that one call makes; frames of a clip follow each other.
        source: the target's file, or "" when it was rendered.
    """

    image: Float[Tensor, "3 h w"]
    target: Float[Tensor, "3 h w"]
    parameters: dict[str, Any]
    mask: Float[Tensor, "1 h w"] | None = None
    geometry: Frames | None = None
    references: NamedPhotos | None = None
    clip: int = 0
    source: str = ""


@dataclass(frozen=True)
class Stream:
    """A stream is one way to make pairs.

    Args:
        settings: its dataclass, frozen; ``__post_init__`` refuses bad values by name.
        make: ``(source, settings, seed) -> frames``: the same input gives the same frames bit by bit; raises
            `InputError` when the source cannot be used.
        source: what it takes.
        reconstructs: whether ``make`` takes a fourth argument: the reconstructors that settings choose from.
    """

    settings: type
    make: Callable[..., Iterable[Made]]
    source: Source
    reconstructs: bool = False


def damaged_clip(
    clip: Clip, images: Float[Tensor, "n 3 h w"], masks: Float[Tensor, "n 1 h w"], parameters: dict[str, Any]
) -> list[Made]:
    """Pair the damaged frames of a clip with their own photos."""
    return [
        Made(image, target, parameters, mask, source=str(file))
        for image, target, mask, file in zip(images, clip.frames, masks, clip.files, strict=True)
    ]


def load_clip(files: tuple[Path, ...], width: int | None) -> Clip:
    """Read frames, by choice resized.

    Raises:
        InputError: naming a file that is missing, unreadable or of another size than the first.
    """
    frames: list[Tensor] = []
    for file in files:
        frame = load_image(file)[None]
        if width is not None:
            frame = resize(frame, max(1, round(frame.shape[-2] * width / frame.shape[-1])), width)
        if frames and frame.shape != frames[0].shape:
            raise InputError(f"{file} has another size than {files[0]}: frames of one clip have one size")
        frames.append(to_float(to_uint8(frame)))
    return Clip(files, torch.cat(frames))
