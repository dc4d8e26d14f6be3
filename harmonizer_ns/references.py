# SPDX-License-Identifier: Apache-2.0
"""Which real photos show what a view shows: nearest by covisible points, not by metres plus radians."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.images import resize, to_float
from harmonizer_ns.poses import nearest_spacing, rotation_angle
from harmonizer_ns.spread import thin
from harmonizer_ns.types import Cameras, Frames, Renderer, cat_cameras
from harmonizer_ns.warp import in_frustum, project

_MAX_POINTS = 4096
"""Points a view is compared by: enough to rank photos, few enough for hundreds of photos."""

_CHUNK = 128
"""Photos scored at a time, which bounds memory."""

_ANGLE_POWER = 4
"""A point seen 30 degrees off counts 0.56, 60 degrees off 0.06."""

_TIE = 0.1
"""How much overall similarity counts beside newly covered points."""


def covisibility(view: Cameras, photos: list[Cameras], points: Float[Tensor, "p 3"]) -> Float[Tensor, "photos points"]:
    """How well each photo shows each point that a view sees, in [0, 1].

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
    return torch.cat([_score(_same_size(chunk), visible, rays, sharpness) for chunk in chunks])


def _same_size(cameras: list[Cameras]) -> Cameras:
    """One batch: every camera's intrinsics are brought to a unit image, which changes no frustum."""
    return cat_cameras([camera.resized(1, 1) for camera in cameras])


def _sharpness(cameras: Cameras, points: Float[Tensor, "p 3"]) -> Float[Tensor, "n p"]:
    """Relative resolution of points, ``f / z`` with the focal length in image heights."""
    focal = cameras.intrinsics[:, 1, 1] / cameras.height
    return focal[:, None] / project(points[None], cameras)[1].clamp(min=1e-12)


def _score(
    photos: Cameras, points: Float[Tensor, "p 3"], rays: Float[Tensor, "p 3"], sharpness: Float[Tensor, "1 p"]
) -> Float[Tensor, "n p"]:
    """``covisibility`` for one chunk of photos."""
    photo_rays = torch.nn.functional.normalize(points[None] - photos.centers[:, None], dim=-1)
    cosine = (photo_rays * rays).sum(-1).clamp(min=0.0)
    ratio = _sharpness(photos, points) / sharpness
    return in_frustum(photos, points) * cosine**_ANGLE_POWER * torch.minimum(ratio, 1 / ratio)


def greedy_cover(scores: Float[Tensor, "photos points"], count: int) -> list[int]:
    """Photos in the order in which each adds most to what the earlier ones show (facility location, greedy).

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


class ReferenceSelector:
    """Finds, for a view, the real photos that show most of what it shows, and brings them to its size.

    Args:
        photos: gives the photo of a training camera, ``3 h w``, uint8 or float in [0, 1]; called when it is needed, so
            nothing is kept twice in memory.
        cameras: training cameras, batches of one.
        points: seed points of the scene; with None the nearest poses are taken.
        count: how many photos for each view; 0 gives none.

    Raises:
        ValueError: without cameras or for a negative count.
    """

    def __init__(
        self,
        photos: Callable[[int], Tensor],
        cameras: list[Cameras],
        points: Float[Tensor, "p 3"] | None,
        count: int = 4,
    ) -> None:
        if not cameras or count < 0:
            raise ValueError(f"need training cameras and count >= 0, got {len(cameras)} cameras and count {count}")
        self.photos = photos
        self.cameras = [camera.to("cpu") for camera in cameras]
        self.points = None if points is None or not len(points) else points.detach().float().cpu()
        self.count = count
        self._poses = torch.cat([camera.camera_to_world for camera in self.cameras])
        self._spacing = nearest_spacing(self._poses)

    def nearest(self, view: Cameras) -> list[int]:
        """Indices of the training cameras chosen for a view (a batch of one), best first."""
        view = view.to("cpu")
        chosen = [] if self.points is None else greedy_cover(covisibility(view, self.cameras, self.points), self.count)
        return chosen or self._nearest_poses(view)

    def select(self, view: Cameras, renderer: Renderer) -> Frames | None:
        """The chosen photos at the view's size, with the depth that the renderer has at each photo's camera.

        Photos of another aspect are cropped around their centre, never squashed. Alpha is 1.

        Args:
            view: a batch of one.
            renderer: the model in training.

        Returns:
            Frames on the renderer's device, best photo first; None when ``count`` is 0.
        """
        chosen = self.nearest(view)
        if not chosen:
            return None
        cameras = cat_cameras([cover_cameras(self.cameras[i], view.width, view.height) for i in chosen])
        depth = renderer.render(cameras).depth
        rgb = torch.cat([cover_images(self._photo(i), view.width, view.height) for i in chosen]).to(depth.device)
        return Frames(rgb.clamp(0.0, 1.0), torch.ones_like(depth), depth, cameras.to(depth.device))

    def _photo(self, index: int) -> Float[Tensor, "1 3 h w"]:
        """One photo as float in [0, 1], checked against its camera."""
        photo, camera = self.photos(index), self.cameras[index]
        if tuple(photo.shape) != (3, camera.height, camera.width):
            raise ValueError(
                f"photo {index} has shape {tuple(photo.shape)}, its camera says {(3, camera.height, camera.width)}"
            )
        return (to_float(photo) if photo.dtype == torch.uint8 else photo.float())[None]

    def _nearest_poses(self, view: Cameras) -> list[int]:
        """Training cameras by distance in units of the capture's spacing plus angle in units of 10 degrees."""
        distances = (self._poses[:, :3, 3] - view.centers).norm(dim=-1)
        unit = self._spacing[0] or max(distances.max().item(), torch.finfo(distances.dtype).tiny)
        angles = rotation_angle(self._poses[:, :3, :3], view.camera_to_world[:, :3, :3])
        order = torch.argsort(distances / unit + angles / 0.1745, stable=True)
        return order[: self.count].tolist()


# --- to the size of a view -------------------------------------------------------------------------------------------


def _cover_size(width: int, height: int, to_width: int, to_height: int) -> tuple[int, int]:
    """The smallest size of about the same aspect that covers ``to_width x to_height``."""
    scale = max(to_width / width, to_height / height)
    return max(to_width, round(width * scale)), max(to_height, round(height * scale))


def cover_cameras(cameras: Cameras, width: int, height: int) -> Cameras:
    """The cameras of the same photos after ``cover_images``: scaled, and cropped by a shift of the principal point."""
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
