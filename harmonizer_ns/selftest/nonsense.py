# SPDX-License-Identifier: Apache-2.0
"""What no reader may let pass, whatever a file says: each function yields what is nonsense in what was read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.captures.frame import Similarity
from harmonizer_ns.pairs import Pairs
from harmonizer_ns.types import Cameras

_FAR = 1e15


def in_cameras(cameras: Iterable[Cameras]) -> Iterator[str]:
    """Poses that are not rigid or beyond any scene, lenses that cannot be, images that nobody has."""
    for camera in cameras:
        poses, lenses = camera.camera_to_world.double(), camera.intrinsics.double()
        rotation = poses[:, :3, :3]
        if not (poses.abs() <= 1.001 * _FAR).all():
            yield "a pose is not finite, or beyond 1e15"
        elif (rotation.transpose(1, 2) @ rotation - torch.eye(3)).abs().max() > 0.01 or (rotation.det() < 0).any():
            yield "a pose is not rigid"
        focal = lenses[:, (0, 1), (0, 1)] / camera.width
        if not ((focal > 0.049) & (focal < 51)).all():
            yield f"a focal length is {focal.tolist()} image widths"
        middle = lenses[:, :2, 2] / torch.tensor([camera.width, camera.height])
        if not ((middle > -1.1) & (middle < 2.1)).all():
            yield f"a principal point lies at {middle.tolist()} of an image"
        if max(camera.width, camera.height) > 65_500:
            yield f"an image has {camera.width}x{camera.height} pixels"


def in_capture(capture: Capture) -> Iterator[str]:
    """What `in_cameras` knows, wild points and colours, photos that do not fit, photos both trained on and held out."""
    yield from in_cameras(capture.cameras)
    if not (capture.points.abs() <= _FAR).all() or len(capture.points) != len(capture.colors):
        yield "points are not finite, or beyond 1e15, or have no colours"
    if not ((capture.colors >= 0) & (capture.colors <= 1)).all():
        yield "colours are not in [0, 1]"
    if not capture.train or set(capture.train) & set(capture.test):
        yield f"photos {capture.train} are trained on, {capture.test} are held out"
    for i, camera in enumerate(capture.cameras):
        size, mask = (camera.height, camera.width), capture.mask(i)
        if capture.photo(i).shape != (3, *size) or capture.photo(i).dtype != torch.uint8:
            yield f"photo {i} is not of its camera's size"
        if mask is not None and mask.shape != (1, *size):
            yield f"the mask of photo {i} is of another size"
    masks = [capture.mask(i) for i in range(len(capture))]
    if not any(mask is None or mask.any() for mask in masks):
        yield "nothing is left of the photos"


def in_splats(splats: dict[str, Tensor]) -> Iterator[str]:
    """Values that are not finite or overflow, rotations of length zero, arrays that do not belong together."""
    if len({len(value) for value in splats.values()}) > 1 or not len(splats["means"]):
        yield f"shapes are {[tuple(value.shape) for value in splats.values()]}"
        return
    for name, value in splats.items():
        if not value.isfinite().all() or value.dtype != torch.float32:
            yield f"{name} is not finite, or of {value.dtype}"
    if not (splats["means"].abs() <= _FAR).all():
        yield "means are beyond 1e15"
    if not splats["scales"].exp().isfinite().all():
        yield f"scales reach exp({splats['scales'].max().item():g})"
    if not (splats["quats"].norm(dim=1) > 0).all():
        yield "a rotation has length zero"


def in_similarity(way: Similarity) -> Iterator[str]:
    """Frames that are not finite, mirror, or shrink all to a point."""
    if not way.matrix.isfinite().all() or not 0 < way.scale < math.inf:
        yield f"the frame is {way.matrix.tolist()}"


def in_tensors(tensors: Any) -> Iterator[str]:
    """Weights or pictures that are not finite."""
    for tensor in tensors.values() if isinstance(tensors, dict) else tensors:
        if not tensor.isfinite().all():
            yield "a value is not finite"


def in_frames(frames: list[Tensor]) -> Iterator[str]:
    """No frames, and colours that are not in [0, 1]."""
    if not frames or not all(frame.ndim == 3 and ((frame >= 0) & (frame <= 1)).all() for frame in frames):
        yield f"{len(frames)} frames, or colours are not in [0, 1]"


def in_pairs(pairs: Pairs) -> Iterator[str]:
    """What `in_cameras` knows, names that are not text, frames before the first."""
    for pair in (*pairs.train, *pairs.test):
        yield from in_cameras([] if pair.cameras is None else [pair.cameras])
        if pair.frame is not None and pair.frame < 0:
            yield f"{pair.name} is frame {pair.frame}"


def in_settings(settings: Any) -> Iterator[str]:
    """Numbers that are not finite, in dataclasses and what they hold."""
    if dataclasses.is_dataclass(settings):
        settings = {field.name: getattr(settings, field.name, None) for field in dataclasses.fields(settings)}
    if isinstance(settings, dict | list | tuple):
        for value in settings.values() if isinstance(settings, dict) else settings:
            yield from in_settings(value)
    elif isinstance(settings, float) and math.isnan(settings):
        yield "a setting is not a number"


def in_step(step: Any) -> Iterator[str]:
    """Steps that are no whole number from 0 on."""
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        yield f"the step is {step!r}"
