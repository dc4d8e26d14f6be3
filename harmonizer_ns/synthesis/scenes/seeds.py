# SPDX-License-Identifier: Apache-2.0
"""Seed points of a capture are picked like those of structure from motion, or triangulated by COLMAP itself."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from harmonizer_ns.errors import InputError
from harmonizer_ns.synthesis.scenes.cameras import Lens, Poses
from harmonizer_ns.warp import project


@dataclass(frozen=True)
class SeedPoints:
    """Seed points are a coloured point cloud.

    Args:
        positions: world positions in metres.
        colors: sRGB, 8 bits.
        tracks: for each point the indices of the photos that see it.
    """

    positions: Float[np.ndarray, "p 3"]
    colors: UInt8[np.ndarray, "p 3"]
    tracks: list[list[int]]


def find_seed_points(
    rng: np.random.Generator,
    photos: list[UInt8[np.ndarray, "h w 3"]],
    surfaces: list[Float[np.ndarray, "h w 3"]],
    poses: Poses,
    lens: Lens,
    count: int,
) -> SeedPoints:
    """Pick about ``count`` points as structure from motion has them: on texture, seen twice or more, not quite exact.

    Args:
        rng: source of randomness.
        photos: the training photos.
        surfaces: for each photo the surface point inside each pixel, nan where there is none.
        poses: their cameras (OpenCV axes).
        lens: their intrinsics.
        count: upper bound of the number of points.
    """
    picked = np.concatenate(
        [_corners(rng, p, s, 2 * count // len(photos) + 1) for p, s in zip(photos, surfaces, strict=True)]
    )
    seen, colors = _look(picked, photos, surfaces, poses, lens)
    kept = np.flatnonzero(seen.sum(axis=1) >= 2)
    kept = np.sort(rng.permutation(kept)[:count])
    seen, colors, picked = seen[kept], colors[kept], picked[kept]
    distance = np.linalg.norm(picked - poses[:, :3, 3].mean(axis=0), axis=1, keepdims=True)
    positions = picked + 0.4 * distance / lens.focal * rng.standard_normal(picked.shape)
    mean = (colors * seen[..., None]).sum(axis=1) / seen.sum(axis=1, keepdims=True)
    return SeedPoints(positions, (mean + 0.5).astype(np.uint8), [np.flatnonzero(row).tolist() for row in seen])


def _corners(
    rng: np.random.Generator, photo: UInt8[np.ndarray, "h w 3"], surface: Float[np.ndarray, "h w 3"], count: int
) -> Float[np.ndarray, "p 3"]:
    """Pick surface points at random pixels, the likelier the stronger the image gradient."""
    known = np.isfinite(surface).all(axis=-1)
    weight = ((np.minimum(np.hypot(*np.gradient(photo.mean(axis=-1))), 30) + 1e-9) * known).ravel()
    if not weight.any():
        return np.empty((0, 3))
    count = min(count, int((weight > 0).sum()))
    return surface.reshape(-1, 3)[rng.choice(weight.size, count, replace=False, p=weight / weight.sum())]


def _look(
    points: Float[np.ndarray, "p 3"],
    photos: list[UInt8[np.ndarray, "h w 3"]],
    surfaces: list[Float[np.ndarray, "h w 3"]],
    poses: Poses,
    lens: Lens,
) -> tuple[Bool[np.ndarray, "p n"], Float[np.ndarray, "p n 3"]]:
    """Find out which photos see each point, and in which colour: the point lies on the surface that the pixel shows."""
    seen = np.zeros((len(points), len(photos)), dtype=bool)
    colors = np.zeros((len(points), len(photos), 3))
    for i, (photo, surface, pose) in enumerate(zip(photos, surfaces, poses, strict=True)):
        found, z = project(torch.from_numpy(points)[None], lens.cameras(pose[None]))
        pixels, depth = found[0].numpy(), z[0].numpy()
        inside = (depth > 0) & (pixels >= 0).all(axis=1) & (pixels < [lens.width, lens.height]).all(axis=1)
        x, y = np.where(inside[:, None], pixels, 0).astype(int).T
        shown = (surface[y, x] - pose[:3, 3]) @ pose[:3, 2]
        seen[:, i] = inside & (np.abs(shown - depth) < 0.015 * depth)
        colors[:, i] = photo[y, x]
    return seen, colors


def triangulate(photos: list[UInt8[np.ndarray, "h w 3"]], poses: Poses, lens: Lens) -> SeedPoints:
    """Triangulate COLMAP's SIFT features of photos whose cameras are known; poses are not changed.

    Args:
        photos: the training photos.
        poses: their cameras, OpenCV axes.
        lens: their intrinsics.

    Raises:
        InputError: when no feature is seen twice.
    """
    import pycolmap  # late: large, and only makers of captures need it

    pycolmap.logging.minloglevel = pycolmap.logging.WARNING.value
    pycolmap.set_random_seed(0)
    names = [f"{i:05d}.png" for i in range(len(photos))]
    with tempfile.TemporaryDirectory() as folder:
        images, database = Path(folder, "images"), Path(folder, "database.db")
        images.mkdir()
        for name, photo in zip(names, photos, strict=True):
            Image.fromarray(photo).save(images / name)
        _match(pycolmap, images, database, lens)
        known = _known_cameras(pycolmap, database, dict(zip(names, poses, strict=True)))
        model = pycolmap.triangulate_points(known, database, images, Path(folder))
    points = sorted(model.points3D.items())
    if not points:
        raise InputError("no feature is seen by two photos: they show too little texture or overlap too little")
    index = {number: names.index(image.name) for number, image in model.images.items()}
    tracks = [sorted({index[e.image_id] for e in point.track.elements}) for _, point in points]
    return SeedPoints(np.array([p.xyz for _, p in points]), np.array([p.color for _, p in points]), tracks)


def _match(pycolmap: Any, images: Path, database: Path, lens: Lens) -> None:
    """Find features in every image and match every pair, on one CPU thread so that results repeat."""
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = "PINHOLE"
    reader.camera_params = f"{lens.focal},{lens.focal},{lens.width / 2},{lens.height / 2}"
    extraction, matching = pycolmap.FeatureExtractionOptions(), pycolmap.FeatureMatchingOptions()
    for options in (extraction, matching):
        options.use_gpu, options.num_threads = False, 1
    pycolmap.extract_features(
        database,
        images,
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=reader,
        extraction_options=extraction,
    )
    pycolmap.match_exhaustive(database, matching_options=matching)


def _known_cameras(pycolmap: Any, database: Path, poses: dict[str, np.ndarray]) -> Any:
    """Make a reconstruction without points that has every image in its place."""
    known, stored = pycolmap.Reconstruction(), pycolmap.Database.open(database)
    for camera in stored.read_all_cameras():
        known.add_camera_with_trivial_rig(camera)
    for image in stored.read_all_images():
        placed = pycolmap.Image(name=image.name, camera_id=image.camera_id, image_id=image.image_id)
        world_to_camera = np.linalg.inv(poses[image.name])[:3]
        known.add_image_with_trivial_frame(placed, pycolmap.Rigid3d(world_to_camera))
    stored.close()
    return known
