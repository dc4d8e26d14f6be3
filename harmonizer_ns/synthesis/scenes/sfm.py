# SPDX-License-Identifier: Apache-2.0
"""Seed points as a real capture has them: COLMAP's features, matched and triangulated from the known cameras."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from harmonizer_ns.synthesis.scenes.cameras import Lens, Poses
from harmonizer_ns.synthesis.scenes.seeds import SeedPoints


def triangulate(photos: list[UInt8[np.ndarray, "h w 3"]], poses: Poses, lens: Lens) -> SeedPoints:
    """Triangulate SIFT features of photos whose cameras are known; poses are not changed.

    Args:
        photos: the training photos.
        poses: their cameras, OpenCV axes.
        lens: their intrinsics.

    Raises:
        ValueError: when no feature is seen twice.
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
        raise ValueError("no feature is seen by two photos: they show too little texture or overlap too little")
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
    """A reconstruction without points that has every image in its place."""
    known, stored = pycolmap.Reconstruction(), pycolmap.Database.open(database)
    for camera in stored.read_all_cameras():
        known.add_camera_with_trivial_rig(camera)
    for image in stored.read_all_images():
        placed = pycolmap.Image(name=image.name, camera_id=image.camera_id, image_id=image.image_id)
        world_to_camera = np.linalg.inv(poses[image.name])[:3]
        known.add_image_with_trivial_frame(placed, pycolmap.Rigid3d(world_to_camera))
    stored.close()
    return known
