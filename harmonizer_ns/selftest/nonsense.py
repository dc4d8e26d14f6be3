# SPDX-License-Identifier: Apache-2.0
"""What no reader may let pass, whatever a file says, for each type that readers give."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.captures.frame import Similarity
from harmonizer_ns.types import Cameras

_FAR = 1e15


@singledispatch
def nonsense(value: Any) -> Iterator[str]:
    """Numbers that are NaN, in settings and all that dataclasses hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from nonsense({field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)})
    elif isinstance(value, float) and math.isnan(value):
        yield "a number is NaN"


@nonsense.register(list)
@nonsense.register(tuple)
def _(values: Any) -> Iterator[str]:
    for value in values:
        yield from nonsense(value)


@nonsense.register
def _(value: dict) -> Iterator[str]:
    """Steps and numbers of frames that do not count from 0 on; splats, see below; whatever else is in it."""
    for name in ("step", "frame"):
        number = value.get(name)
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 0):
            yield f"the {name} is {number!r}"
    if isinstance(value.get("quats"), Tensor):
        yield from _in_splats(value)
    yield from nonsense(list(value.values()))


def _in_splats(splats: dict[str, Tensor]) -> Iterator[str]:
    """Values that overflow, rotations of length zero, arrays that do not belong together."""
    if len({len(value) for value in splats.values()}) > 1 or not len(splats["means"]):
        yield f"shapes are {[tuple(value.shape) for value in splats.values()]}"
    elif any(value.dtype != torch.float32 for value in splats.values()):
        yield f"splats are of {[value.dtype for value in splats.values()]}"
    if not (splats["means"].abs() <= _FAR).all():
        yield "means are beyond 1e15"
    if not splats["scales"].exp().isfinite().all():
        yield f"scales reach exp({splats['scales'].max().item():g})"
    if not (splats["quats"].norm(dim=1) > 0).all():
        yield "a rotation has length zero"


@nonsense.register
def _(tensor: Tensor) -> Iterator[str]:
    if not tensor.isfinite().all():
        yield "a weight, splat or colour is not finite"


@nonsense.register
def _(way: Similarity) -> Iterator[str]:
    """Frames that are not finite, mirror, or shrink all to a point."""
    if not way.matrix.isfinite().all() or not 0 < way.scale < math.inf:
        yield f"the frame is {way.matrix.tolist()}"


@nonsense.register
def _(camera: Cameras) -> Iterator[str]:
    """Poses that are not rigid or beyond any scene, lenses that cannot be, images that nobody has."""
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


@nonsense.register
def _(capture: Capture) -> Iterator[str]:
    """Bad cameras, wild points and colours, photos that do not fit, photos both trained on and held out."""
    yield from nonsense(capture.cameras)
    if not (capture.points.abs() <= _FAR).all() or len(capture.points) != len(capture.colors):
        yield "points are not finite, or beyond 1e15, or have no colours"
    if not ((capture.colors >= 0) & (capture.colors <= 1)).all():
        yield "colours are not in [0, 1]"
    if not capture.train or set(capture.train) & set(capture.test):
        yield f"photos {capture.train} are trained on, {capture.test} are held out"
    masks = [capture.mask(i) for i in range(len(capture))]
    for i, (camera, mask) in enumerate(zip(capture.cameras, masks, strict=True)):
        size = (camera.height, camera.width)
        if capture.photo(i).shape != (3, *size) or capture.photo(i).dtype != torch.uint8:
            yield f"photo {i} is not of its camera's size"
        if mask is not None and mask.shape != (1, *size):
            yield f"the mask of photo {i} is of another size"
    if not any(mask is None or mask.any() for mask in masks):
        yield "nothing is left of the photos"
