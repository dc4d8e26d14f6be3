# SPDX-License-Identifier: Apache-2.0
"""Render a stage with and without the things inserted into it, so that a thing can be pasted without its shadow.

All renders of a frame use the same samples: where no light path meets a thing, both images are equal bit by bit, and
elsewhere their noise is alike. Pixels of the film are never shared between Mitsuba's blocks, whose size is fixed: the
result does not depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from harmonizer_ns.synthesis.scenes.cameras import Lens
from harmonizer_ns.synthesis.scenes.objects import Part
from harmonizer_ns.synthesis.scenes.render import (
    NEAR,
    Light,
    Stage,
    glowing,
    load_mitsuba,
    make_sensor,
    scene_dict,
    surfaces,
)

FINE = 2
"""Subpixels along each side of a pixel, so that edges are composed before they are averaged."""
_BLOCK = 16
_BOUNCES = 3


@dataclass(frozen=True)
class Layers:
    """Layers are what one camera sees, linear RGB.

    Args:
        full: everything.
        pasted: the things over the scene without them, thus without their shadows and reflections.
        alpha: share of each pixel that shows an inserted thing, in [0, 1].
    """

    full: Float[np.ndarray, "h w 3"]
    pasted: Float[np.ndarray, "h w 3"]
    alpha: Float[np.ndarray, "h w 1"]


class LayerRenderer:
    """Renders one stage and what is inserted into it.

    Args:
        stage: the surroundings.
        inserted: parts of the inserted things.
    """

    def __init__(self, stage: Stage, inserted: list[Part]) -> None:
        self._mi = mi = load_mitsuba("scalar_rgb")
        without = scene_dict(mi, stage)
        shapes = surfaces(mi, inserted, "inserted")
        solid = {name: shape for name, shape in without.items() if name == "type" or name.startswith("part")}
        self._full = mi.load_dict({**without, **shapes})
        self._without = mi.load_dict(without)
        # Area lights shine to one side; every ray meets one of the sides, so both renders together are the matte.
        self._mattes = [mi.load_dict({**solid, **glowing(mi, _lit(inserted, flip))}) for flip in (False, True)]
        self._path = mi.load_dict({"type": "path", "max_depth": _BOUNCES, "block_size": _BLOCK})
        self._emission = mi.load_dict({"type": "path", "max_depth": 1, "block_size": _BLOCK})
        self._distance = mi.load_dict({"type": "aov", "aovs": "distance:depth", "block_size": _BLOCK})

    def layers(self, pose: Float[np.ndarray, "4 4"], lens: Lens, spp: int, seed: int) -> Layers:
        """Render one frame (OpenCV axes) with ``spp`` light samples for each pixel, a multiple of ``FINE**2``."""
        fine = Lens(lens.width * FINE, lens.height * FINE, lens.focal * FINE)
        sampler = {"type": "multijitter", "sample_count": spp // FINE**2}
        sensor = make_sensor(self._mi, fine, pose, "box", sampler)
        full, without = (
            _calm(self._render(scene, self._path, sensor, seed)[..., :3]) for scene in (self._full, self._without)
        )
        front, back = (self._render(scene, self._emission, sensor, seed)[..., :1] for scene in self._mattes)
        alpha = np.minimum(front + back, 1)
        return Layers(_average(full), _average(full + (1 - alpha) * (without - full)), _average(alpha))

    def depth(self, pose: Float[np.ndarray, "4 4"], lens: Lens) -> Float[np.ndarray, "h w"]:
        """Measure z-depth at the pixels' centres, inserted things included; 0 where nothing is hit."""
        sampler = {"type": "stratified", "sample_count": 1, "jitter": False}
        sensor = make_sensor(self._mi, lens, pose, "box", sampler)
        distance = self._render(self._full, self._distance, sensor, 0)[..., -1]
        ys, xs = np.mgrid[: lens.height, : lens.width] + 0.5
        along = np.hypot((xs - lens.width / 2) / lens.focal, (ys - lens.height / 2) / lens.focal)
        return np.where(distance > 0, distance / np.hypot(along, 1) + NEAR, 0).astype(np.float32)

    def _render(self, scene: object, integrator: object, sensor: object, seed: int) -> Float[np.ndarray, "h w c"]:
        return np.array(self._mi.render(scene, integrator=integrator, sensor=sensor, seed=seed))


def _lit(parts: list[Part], flip: bool) -> list[Light]:
    order = [0, 2, 1] if flip else [0, 1, 2]
    meshes = [replace(part.mesh, faces=part.mesh.faces[:, order], smooth=False) for part in parts]
    return [Light(mesh, np.ones(3)) for mesh in meshes]


def _calm(image: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w c"]:
    """Bring rare bright dots, light that found the lamp by way of a mirror, down to their neighbourhood."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = np.stack([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)])
    return np.minimum(image, 2 * np.partition(around, 6, axis=0)[6])


def _average(image: Float[np.ndarray, "fh fw c"]) -> Float[np.ndarray, "h w c"]:
    height, width, channels = image.shape
    return image.reshape(height // FINE, FINE, width // FINE, FINE, channels).mean(axis=(1, 3))
