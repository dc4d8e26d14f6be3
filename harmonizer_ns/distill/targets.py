# SPDX-License-Identifier: Apache-2.0
"""A run may look around the capture, along a camera path, or from the held-out poses; these are its targets."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.distill.settings import DistillSettings
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import read_json
from harmonizer_ns.poses import (
    LARGEST_SIDE,
    check_intrinsics,
    check_poses,
    flip_axes,
    matrix_from_json,
    rotation_between,
)
from harmonizer_ns.spread import evenly_spread, thin
from harmonizer_ns.types import Cameras
from harmonizer_ns.warp import in_frustum, project

_DIRECTIONS = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
"""Right, up, left, down and forward in OpenCV axes."""

_MAX_POINTS = 20_000
"""Points beyond this many are thinned evenly; what is measured from them is a fraction or a median."""

_MIN_OVERLAP = 0.05
"""A target must see this many points at least, as a fraction of what a training camera sees (their median)."""

PoseTransform = Callable[[Float[Tensor, "n 4 4"]], Float[Tensor, "n 4 4"]]
"""From one frame into another."""


def choose_targets(
    settings: DistillSettings,
    train: list[Cameras],
    points: Float[Tensor, "p 3"] | None,
    held_out: list[Cameras],
    say: Callable[[str], None],
    transform: PoseTransform | None = None,
) -> tuple[list[Cameras], str]:
    """The target cameras that the settings ask for, and one line that says where they come from.

    Args:
        settings: of the run.
        train: training cameras, batches of one.
        points: seed points, or None.
        held_out: poses of the held-out views.
        say: told about targets that are dropped.
        transform: brings a camera path's OpenGL poses into the frame that is trained in.

    Raises:
        InputError: when the choice cannot be served, or no target sees what was captured.
    """
    if settings.targets == "path":
        assert settings.camera_path is not None
        targets, origin = load_camera_path(settings.camera_path, transform), f"camera path {settings.camera_path}"
    elif settings.targets == "eval":
        if not held_out:
            raise InputError("targets 'eval' needs held-out photos, and this capture has none")
        targets, origin = held_out, "evaluation poses (the papers' protocol)"
    else:
        targets = extrapolate(train, points, settings.num_targets, settings.extrapolation)
        origin = f"extrapolated around the capture by {settings.extrapolation:g} of its extent"
    return keep_overlapping(evenly_spread(targets, settings.num_targets, ends=True), train, points, say), origin


# --- camera paths -----------------------------------------------------------------------------------------------------


def load_camera_path(path: Path, transform: PoseTransform | None = None) -> list[Cameras]:
    """Read a ``camera_path.json`` as nerfstudio's viewer exports it.

    nerfstudio exports poses in the frame of the model it was viewing (after the dataparser's orientation and scaling),
    as 16 row-major numbers with OpenGL axes (x right, y up, z backward) and a vertical field of view in degrees.

    Args:
        path: the file.
        transform: applied to the file's OpenGL poses (float64) first, for a path that was made in another frame than
            the one that is trained in.

    Returns:
        One batch of one per entry, OpenCV axes, of the path's render size.

    Raises:
        InputError: on a missing or malformed file, naming the file and the entry; on a camera type other than
            perspective.
    """
    data = read_json(Path(path))
    if str(data.get("camera_type", "perspective")).lower() != "perspective":
        raise InputError(f"{path}: only perspective camera paths can be repaired, got {data['camera_type']!r}")
    width, height = (_positive_int(data, key, path) for key in ("render_width", "render_height"))
    entries = data.get("camera_path")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: 'camera_path' must be a list with at least one camera")
    names = [f"{path}: camera {i}" for i in range(len(entries))]
    poses = torch.stack([_read_pose(entry, name) for entry, name in zip(entries, names, strict=True)])
    poses = (poses if transform is None else transform(poses)).float()
    check_poses(poses, names)
    intrinsics = torch.stack([_intrinsics(*entry, width, height) for entry in zip(entries, names, strict=True)])
    return list(Cameras(flip_axes(poses), intrinsics, width, height))


def _positive_int(data: dict[str, Any], key: str, path: Path) -> int:
    value = data.get(key)
    if not isinstance(value, int | float) or not 1 <= value <= LARGEST_SIDE:
        raise InputError(f"{path}: {key!r} must be a number of pixels from 1 to {LARGEST_SIDE}, got {value!r}")
    return int(value)


def _read_pose(entry: Any, where: str) -> Float[Tensor, "4 4"]:
    numbers = entry.get("camera_to_world") if isinstance(entry, dict) else None
    return matrix_from_json(numbers, (4, 4), f"{where}: camera_to_world")


def _intrinsics(entry: dict[str, Any], where: str, width: int, height: int) -> Float[Tensor, "3 3"]:
    """Focal length in pixels, ``h / (2 tan(fov / 2))`` with the vertical field of view; centred."""
    fov = entry.get("fov")
    if not isinstance(fov, int | float) or not 0 < fov < 180:
        raise InputError(f"{where}: 'fov' must be an angle between 0 and 180 degrees, got {fov!r}")
    focal = height / (2 * math.tan(math.radians(fov) / 2))
    intrinsics = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    check_intrinsics(intrinsics, width, height, where)
    return intrinsics


# --- extrapolation ----------------------------------------------------------------------------------------------------


def extrapolate(
    train: list[Cameras], points: Float[Tensor, "p 3"] | None, count: int, fraction: float
) -> list[Cameras]:
    """Views off the trajectory of a capture that look at the same content.

    Training cameras evenly spread along the capture are each moved by ``fraction`` of the capture's size: sideways, up,
    down or forward, whichever ends farthest from all training cameras and earlier targets without running into points.
    A moved camera turns to keep its look-at point, which lies at the median depth of the points it sees. Deterministic.

    Args:
        train: training cameras in capture order, batches of one; at least one.
        points: seed points of the scene, or None.
        count: how many views, at least 1.
        fraction: size of the move, positive; 1 is the diameter of the camera positions (without such, the look-at
            distance).

    Returns:
        Batches of one, with the intrinsics and size of the training camera each came from.
    """
    points = None if points is None or not len(points) else thin(points.cpu(), _MAX_POINTS)
    bases = [train[int((i + 0.5) * len(train) / count)].to("cpu") for i in range(count)]
    taken = torch.cat([c.centers.cpu() for c in train])
    extent = capture_extent(taken)
    targets: list[Cameras] = []
    for index, base in enumerate(bases):
        first = index % len(_DIRECTIONS)  # equally new moves take turns
        directions = _DIRECTIONS[first:] + _DIRECTIONS[:first]
        target = _move(base, directions, taken, points, fraction, extent)
        taken = torch.cat([taken, target.centers])
        targets.append(target)
    return targets


def capture_extent(centers: Float[Tensor, "n 3"]) -> float:
    """Diameter of the camera positions: twice the 90th percentile of the distances from their mean."""
    return 2 * (centers - centers.mean(dim=0)).norm(dim=-1).quantile(0.9).item()


def look_distance(camera: Cameras, points: Float[Tensor, "p 3"] | None, fallback: float) -> float:
    """Median z-depth of the points in one camera's frustum; ``fallback`` when it sees none."""
    if points is None:
        return fallback
    depths = project(points[None], camera)[1][in_frustum(camera, points)]
    return depths.median().item() if len(depths) else fallback


def _move(
    base: Cameras,
    directions: tuple[tuple[float, float, float], ...],
    taken: Float[Tensor, "n 3"],
    points: Float[Tensor, "p 3"] | None,
    fraction: float,
    extent: float,
) -> Cameras:
    """The target of one base: the candidate move from ``base`` that is newest among those with enough room."""
    look = look_distance(base, points, extent or 1.0)
    step = fraction * (extent or look)
    candidates = [_moved(base, direction, step, look) for direction in directions]
    room = [_room(candidate, points) for candidate in candidates]
    enough = 0.5 * min(_room(base, points), look)
    open_candidates = [c for c, r in zip(candidates, room, strict=True) if r >= enough] or candidates
    newness = [torch.cdist(c.centers, taken).min().item() for c in open_candidates]
    # Moves of one base are often equally new but for rounding: the first in order wins among those within 1%.
    best = next(i for i, value in enumerate(newness) if value >= 0.99 * max(newness))
    return open_candidates[best]


def _moved(base: Cameras, direction: tuple[float, float, float], step: float, look: float) -> Cameras:
    """``base`` moved along one of its own axes, turned by the smallest rotation that keeps its look-at point."""
    step = min(step, 0.5 * look) if direction[2] else step  # going forward must not reach the content
    pose = base.camera_to_world[0].double()
    aim = pose[:3, 3] + look * pose[:3, 2]
    moved = pose.clone()
    moved[:3, 3] = pose[:3, 3] + step * (pose[:3, :3] @ pose.new_tensor(direction))
    moved[:3, :3] = rotation_between(pose[:3, 2], aim - moved[:3, 3]) @ pose[:3, :3]
    return Cameras(moved[None].to(base.camera_to_world), base.intrinsics, base.width, base.height)


def _room(camera: Cameras, points: Float[Tensor, "p 3"] | None) -> float:
    """Distance to the fifth nearest point (single seed points are often stray)."""
    if points is None:
        return math.inf
    distances = (points - camera.centers).norm(dim=-1)
    return distances.topk(min(5, len(points)), largest=False).values.max().item()


# --- overlap ----------------------------------------------------------------------------------------------------------


def keep_overlapping(
    targets: list[Cameras], train: list[Cameras], points: Float[Tensor, "p 3"] | None, say: Callable[[str], None]
) -> list[Cameras]:
    """Drop the targets that look away from everything that was captured.

    Args:
        targets: wanted cameras, batches of one.
        train: training cameras, batches of one; the median number of points that they see is the measure.
        points: seed points of the scene; with None every target is kept.
        say: told which targets are dropped.

    Returns:
        The targets with overlap, in order.

    Raises:
        InputError: when no target has any overlap.
    """
    if points is None or not len(points):
        return targets
    points = thin(points.cpu(), _MAX_POINTS)
    usual = torch.tensor([seen_fraction(camera.to("cpu"), points) for camera in train]).median().item()
    seen = [seen_fraction(target.to("cpu"), points) for target in targets]
    blind = [i for i, value in enumerate(seen) if value == 0 or value < _MIN_OVERLAP * usual]
    if not blind:
        return targets
    measured = ", ".join(f"target {i} sees {seen[i]:.2%}" for i in blind[:16]) + (", ..." if blind[16:] else "")
    message = f"target path with no overlap: {measured} of the seed points, a training camera sees {usual:.2%}"
    if len(blind) == len(targets):
        raise InputError(f"{message}. Is the path in the frame of this capture?")
    say(f"{message}; dropped {len(blind)} of {len(targets)} targets")
    return [target for i, target in enumerate(targets) if i not in set(blind)]


def seen_fraction(camera: Cameras, points: Float[Tensor, "p 3"]) -> float:
    """Fraction, in [0, 1], of the points that one camera (a batch of one) has in its frustum."""
    return in_frustum(camera, points)[0].double().mean().item()
