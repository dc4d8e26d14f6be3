# SPDX-License-Identifier: Apache-2.0
"""Render the demo capture: ``harmonizer scenes demo --output assets/demo``.

The training photos lie on a short arc in front of a desk; the held-out photos follow a path that leaves the arc
sideways and towards the desk. The seed points are triangulated by COLMAP, as in a real capture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harmonizer_ns.progress import counted
from harmonizer_ns.synthesis.scenes.cameras import Lens, Poses, jitter, look_at, polar
from harmonizer_ns.synthesis.scenes.desk import desk_corner
from harmonizer_ns.synthesis.scenes.render import StageRenderer, Variant, auto_exposure, develop
from harmonizer_ns.synthesis.scenes.seeds import triangulate
from harmonizer_ns.synthesis.scenes.writer import RenderedCapture, numbered, write_camera_path, write_capture

FOCUS = np.array([-0.05, 0.82, 0.9])
MOMENTS = 24
"""Places along the photographer's walk, of which some become photos."""
NOTE = """# Demo capture

A desk in the corner of a room, {train} training photos (`images/train_*`) on a short arc and {test} held-out photos
(`images/view_*`) on a path that leaves the arc sideways and towards the desk. Metres, z up.

- `transforms.json`: cameras for nerfstudio (OpenGL axes), with the split.
- `sparse_pc.ply`: seed points triangulated by COLMAP from the training photos; `sparse_pc_tracks.json` says which
  photos see them.
- `camera_path.json`: a path through the held-out region for `ns-render camera-path` (nerfstudio's default scaling).

Nothing here was photographed: shapes and textures are formulas, rendered by Mitsuba 3. Made by
`harmonizer scenes demo --output assets/demo`.

Licence: the images and data of this folder are dedicated to the public domain (CC0 1.0); the code that makes them is
Apache-2.0.
"""


@dataclass(frozen=True)
class DemoConfig:
    """The demo capture of a desk corner."""

    output: Path
    """Folder to write."""
    width: int = 480
    """Photo width in pixels."""
    height: int = 270
    """Photo height in pixels."""
    train: int = 24
    """Number of training photos."""
    test: int = 16
    """Number of held-out photos."""
    spp: int = 36
    """Light samples for each pixel; squares are best."""
    variant: Variant = "scalar_rgb"
    """Mitsuba variant: llvm_ad_rgb is two to three times faster and needs a recent libLLVM (19 works)."""
    threads: int = 0
    """Worker threads; 0 uses all cores."""


def arc_poses(count: int) -> Poses:
    """The photographer walks from left to right in front of the desk."""
    rng, t = np.random.default_rng(1), np.linspace(0, 1, MOMENTS)
    eyes = polar(FOCUS, -15 + 30 * t, 1.7 + 0.06 * np.sin(6 * t), 1.42 + 0.07 * np.sin(9 * t))
    targets = FOCUS + np.stack([0.12 - 0.3 * t, 0 * t, 0.05 * np.cos(7 * t)], axis=1)
    walk = look_at(jitter(rng, eyes, 0.02), jitter(rng, targets, 0.03))
    return walk[np.linspace(0, MOMENTS - 1, count).round().astype(int)]


def novel_poses(count: int) -> Poses:
    """The held-out path goes on from the arc's right end, further round and towards the desk."""
    t = np.linspace(0, 1, count)
    eyes = polar(FOCUS, 17 + 23 * t, 1.68 - 0.5 * t, 1.44 - 0.14 * t)
    return look_at(eyes, FOCUS + np.outer(t, [0.1, 0.0, -0.02]) + [-0.05, 0, 0])


def make_demo(config: DemoConfig) -> RenderedCapture:
    """Render and write the capture, its camera path and its note."""
    lens = Lens(config.width, config.height, config.width * 0.85)
    train, test = arc_poses(config.train), novel_poses(config.test)
    renderer = StageRenderer(desk_corner(), lens, config.variant, config.threads)
    linear = [renderer.radiance(pose, config.spp, seed) for seed, pose in enumerate(counted([*train, *test], "photos"))]
    exposure = auto_exposure(linear[: config.train], percentile=80, level=0.42)
    photos = [develop(image, exposure) for image in linear]
    points = triangulate(photos[: config.train], train, lens)
    held_out = numbered("view_", config.test, ".jpg")
    names = [*numbered("train_", config.train, ".jpg"), *held_out]
    capture = RenderedCapture(photos, np.concatenate([train, test]), lens, points, names, held_out)
    write_capture(config.output, capture)
    write_camera_path(config.output / "camera_path.json", novel_poses(90), capture.poses, lens, fps=30)
    (config.output / "README.md").write_text(NOTE.format(train=config.train, test=config.test), encoding="utf-8")
    return capture
