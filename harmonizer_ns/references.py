# SPDX-License-Identifier: Apache-2.0
"""This module finds the real photos that show what a view shows: by covisible points, not by metres plus radians."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.devices import sent
from harmonizer_ns.images import resize, to_float
from harmonizer_ns.poses import nearest_spacing, rotation_angle
from harmonizer_ns.spread import thin
from harmonizer_ns.types import Cameras, Frames, Renderer, cat_cameras
from harmonizer_ns.warp import in_frustum, project

NUM_REFERENCES = 3
"""Photos that an enhancer is shown for each view, unless settings say otherwise."""

_MAX_POINTS = 4096
"""Points a view is compared by: enough to rank photos, few enough for hundreds of photos."""

_CHUNK = 128
"""Photos scored at a time, which bounds memory."""

_ANGLE_POWER = 4
"""A point seen 30 degrees off counts 0.56, 60 degrees off 0.06."""

_TIE = 0.1
"""How much overall similarity counts beside newly covered points."""


def covisibility(view: Cameras, photos: list[Cameras], points: Float[Tensor, "p 3"]) -> Float[Tensor, "photos points"]:
    """Score how well each photo shows each point that a view sees, in [0, 1].

    0 where the photo does not have the point in its frustum, otherwise ``cos(a)^4 min(s, 1/s)``: ``a`` is the angle at
    the point between the rays to both cameras, ``s`` the ratio of their resolutions there (image heights per
    scene unit, ``f / z``). Occlusion is not modelled; the angle term stands in for it.

    Args:
        view: a batch of one.
        photos: batches of one; sizes may differ.
        points: seed points of the scene.
    """
    visible = thin(points[in_frustum(view, points)[0]], _MAX_POINTS)
    rays = torch.nn.functional.normalize(visible - view.centers, dim=-1)
    sharpness = _sharpness(view, visible)
    chunks = [photos[i : i + _CHUNK] for i in range(0, len(photos), _CHUNK)]
    # Cameras of several sizes are joined at that of a unit image, which changes no frustum.
    units = [cat_cameras([camera.resized(1, 1) for camera in chunk]) for chunk in chunks]
    return torch.cat([_score(unit, visible, rays, sharpness) for unit in units])


def _sharpness(cameras: Cameras, points: Float[Tensor, "p 3"]) -> Float[Tensor, "n p"]:
    """Measure the relative resolution of points, ``f / z`` with the focal length in image heights."""
    focal = cameras.intrinsics[:, 1, 1] / cameras.height
    return focal[:, None] / project(points[None], cameras)[1].clamp(min=1e-12)


def _score(
    photos: Cameras, points: Float[Tensor, "p 3"], rays: Float[Tensor, "p 3"], sharpness: Float[Tensor, "1 p"]
) -> Float[Tensor, "n p"]:
    """Score one chunk of photos, as `covisibility`."""
    photo_rays = torch.nn.functional.normalize(points[None] - photos.centers[:, None], dim=-1)
    cosine = (photo_rays * rays).sum(-1).clamp(min=0.0)
    ratio = _sharpness(photos, points) / sharpness
    return in_frustum(photos, points) * cosine**_ANGLE_POWER * torch.minimum(ratio, 1 / ratio)


def greedy_cover(scores: Float[Tensor, "photos points"], count: int) -> list[int]:
    """Order photos so that each adds most to what the earlier ones show (facility location, greedy).

    The value of a set is the sum over points of its best score there; greedy reaches (1 - 1/e) of the best set's
    (Nemhauser, Wolsey and Fisher 1978). Photos that show nothing are left out; the lower index wins a tie.
    """
    totals = scores.sum(dim=1)
    covered = scores.new_zeros(scores.shape[1])
    chosen: list[int] = []
    for _ in range(min(count, int((totals > 0).sum()))):
        gain = (scores - covered).clamp(min=0).sum(dim=1) + _TIE * totals
        gain[totals <= 0] = -torch.inf
        gain[chosen] = -torch.inf
        chosen.append(int(gain.argmax()))
        covered = torch.maximum(covered, scores[chosen[-1]])
    return chosen


class Photographed(Protocol):
    """What is asked of a capture: `harmonizer_ns.captures` has one, nerfstudio's data managers are made one."""

    @property
    def cameras(self) -> list[Cameras]:
        """Cameras of all photos, batches of one."""
        ...

    @property
    def points(self) -> Float[Tensor, "p 3"] | None:
        """Seed points, if there are any."""
        ...

    @property
    def train(self) -> Sequence[int]:
        """Indices of the photos to learn from."""
        ...

    def photo(self, index: int) -> Tensor:
        """A photo, ``3 h w``, in bytes or as float in [0, 1]."""
        ...


class ReferenceSelector:
    """Finds, for a view, the real photos that show most of what it shows, and brings them to its size.

    Args:
        capture: gives the photos when they are needed, so that nothing is kept twice in memory. Without seed points the
            nearest poses are taken.
        count: how many photos for each view; 0 gives none.
        among: indices of the photos to choose from, at least one; None: all.
    """

    def __init__(self, capture: Photographed, count: int, among: Sequence[int] | None = None) -> None:
        self.indices = range(len(capture.cameras)) if among is None else among
        self.capture, self.count = capture, count
        points = capture.points
        self._points = None if points is None or not len(points) else points.detach().float().cpu()
        self._cameras = [capture.cameras[i].to("cpu") for i in self.indices]
        self._poses = torch.cat([camera.camera_to_world for camera in self._cameras])
        self._spacing = nearest_spacing(self._poses)

    def nearest(self, view: Cameras) -> list[int]:
        """Choose photos for a view (a batch of one): their indices, best first."""
        view, chosen = view.to("cpu"), []
        if self._points is not None:
            chosen = greedy_cover(covisibility(view, self._cameras, self._points), self.count)
        return [self.indices[k] for k in chosen or self._nearest_poses(view)]

    def select(self, view: Cameras, renderer: Renderer) -> Frames | None:
        """Choose photos and show them, see `nearest` and `shown`; None when ``count`` is 0."""
        chosen = self.nearest(view)
        return self.shown(chosen, view, renderer) if chosen else None

    def shown(self, indices: Sequence[int], view: Cameras, renderer: Renderer) -> Frames:
        """Bring photos to a view's size, with the depth that the renderer has at each photo's camera, on its device.

        Photos of another aspect are cropped around their centre, never squashed. Alpha is 1.

        Args:
            indices: of the photos.
            view: a batch of one.
            renderer: the model in training.
        """
        capture, width, height = self.capture, view.width, view.height
        cameras = cat_cameras([cover_cameras(capture.cameras[i].to("cpu"), width, height) for i in indices])
        depth = renderer.render(cameras).depth
        photos = (self._photo(i, depth.device) for i in indices)
        rgb = torch.cat([cover_images(photo, width, height) for photo in photos])
        return Frames(rgb.clamp(0.0, 1.0), torch.ones_like(depth), depth, cameras.to(depth.device))

    def _photo(self, index: int, device: torch.device) -> Float[Tensor, "1 3 h w"]:
        """Read one photo as float in [0, 1], checked against its camera; it is sent as it is, often in bytes."""
        photo, camera = self.capture.photo(index), self.capture.cameras[index]
        if tuple(photo.shape) != (3, camera.height, camera.width):
            raise ValueError(
                f"photo {index} has shape {tuple(photo.shape)}, its camera says {(3, camera.height, camera.width)}"
            )
        photo = sent(photo, device)
        return (to_float(photo) if photo.dtype == torch.uint8 else photo.float())[None]

    def _nearest_poses(self, view: Cameras) -> list[int]:
        """Sort cameras by distance in units of the capture's spacing plus angle in units of 10 degrees."""
        distances = (self._poses[:, :3, 3] - view.centers).norm(dim=-1)
        unit = self._spacing[0] or max(distances.max().item(), torch.finfo(distances.dtype).tiny)
        angles = rotation_angle(self._poses[:, :3, :3], view.camera_to_world[:, :3, :3])
        order = torch.argsort(distances / unit + angles / 0.1745, stable=True)
        return order[: self.count].tolist()


# --- to the size of a view -------------------------------------------------------------------------------------------


def _cover_size(width: int, height: int, to_width: int, to_height: int) -> tuple[int, int]:
    """Find the smallest size of about the same aspect that covers ``to_width x to_height``."""
    scale = max(to_width / width, to_height / height)
    return max(to_width, round(width * scale)), max(to_height, round(height * scale))


def cover_cameras(cameras: Cameras, width: int, height: int) -> Cameras:
    """Change cameras as ``cover_images`` does their photos: scaled, and cropped by a shift of the principal point."""
    scaled = cameras.resized(*_cover_size(cameras.width, cameras.height, width, height))
    intrinsics = scaled.intrinsics.clone()
    intrinsics[:, 0, 2] -= (scaled.width - width) // 2
    intrinsics[:, 1, 2] -= (scaled.height - height) // 2
    return replace(scaled, intrinsics=intrinsics, width=width, height=height)


def cover_images(images: Float[Tensor, "n c h w"], width: int, height: int) -> Float[Tensor, "n c height width"]:
    """Resize until the image covers ``width x height``, then crop its centre."""
    scaled_width, scaled_height = _cover_size(images.shape[-1], images.shape[-2], width, height)
    scaled = resize(images, scaled_height, scaled_width)
    left, top = (scaled_width - width) // 2, (scaled_height - height) // 2
    return scaled[..., top : top + height, left : left + width]
