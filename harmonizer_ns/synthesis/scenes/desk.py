# SPDX-License-Identifier: Apache-2.0
"""The set of the demo is a cluttered desk in the corner of a room.

The desk top is at z = `TOP`, 1.5 m wide around x = 0, against the back wall at y = `BACK`; the left wall is `LEFT`.
"""

from __future__ import annotations

import numpy as np

from harmonizer_ns.synthesis.scenes import meshes, objects
from harmonizer_ns.synthesis.scenes.meshes import rotation
from harmonizer_ns.synthesis.scenes.objects import Finish, Material, Part, Thing, flat, place
from harmonizer_ns.synthesis.scenes.render import Light, Stage
from harmonizer_ns.synthesis.scenes.textures import TEXTURES

TOP, BACK, LEFT, RIGHT, FRONT, CEILING = 0.74, 1.3, -1.35, 2.2, -2.3, 2.6


class Workshop:
    """Hands out materials and things, each from a seed of its own, so that changing one leaves the others alone."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def material(self, name: str, seed: int, finish: Finish = "diffuse", roughness: float = 0.15) -> Material:
        """A texture of the table ``TEXTURES`` as a material."""
        return Material(TEXTURES[name](np.random.default_rng([self._seed, seed]), 512), finish, roughness)

    def thing(self, name: str, seed: int, texture: str) -> Thing:
        """A thing of the table ``THINGS``, dressed in one kind of texture."""
        rng = np.random.default_rng([self._seed, seed])
        return objects.THINGS[name](rng, lambda: TEXTURES[texture](rng, 512))


def desk_corner(seed: int = 7) -> Stage:
    """Build the whole set with its lights."""
    shop = Workshop(seed)
    parts = [*_room(shop), *_desk(shop), *_wall_things(shop), *_desk_things(shop), *_floor_things(shop)]
    window = meshes.quad(1.3, 1.2).rotated(rotation("z", -90)).moved(RIGHT - 0.02, -0.3, 0.9)
    lamp = meshes.floor(1.1, 0.7).rotated(rotation("x", 180)).moved(0.35, 0.25, CEILING - 0.02)
    return Stage(parts, [Light(lamp, np.array([7.6, 6.8, 5.7])), Light(window, np.array([3.0, 3.5, 4.2]))])


def _room(shop: Workshop) -> Thing:
    width, depth = RIGHT - LEFT, BACK - FRONT
    cx, cy = (RIGHT + LEFT) / 2, (BACK + FRONT) / 2
    plaster, bricks = shop.material("plaster", 1), shop.material("bricks", 2)
    wallpaper = shop.material("tiles", 40)
    walls = [
        Part(meshes.quad(width, CEILING).retiled(3.2, 2.4).moved(cx, BACK), wallpaper),
        Part(meshes.quad(depth, CEILING).retiled(3.2, 2.4).rotated(rotation("z", 90)).moved(LEFT, cy), bricks),
        Part(meshes.quad(depth, CEILING).rotated(rotation("z", -90)).moved(RIGHT, cy), plaster),
        Part(meshes.quad(width, CEILING).rotated(rotation("z", 180)).moved(cx, FRONT), plaster),
    ]
    level = meshes.floor(width, depth)
    below = Part(level.retiled(2.5, 2.5).moved(cx, cy), shop.material("planks", 3, "plastic", 0.3))
    above = Part(level.rotated(rotation("x", 180)).moved(cx, cy, CEILING), plaster)
    return [*walls, below, above]


def _desk(shop: Workshop) -> Thing:
    wood = shop.material("wood", 4, "plastic", 0.2)
    top = meshes.box(1.5, 0.8, 0.035).retiled(1, 0.6).moved(0, 0.88, TOP - 0.035)
    legs = [meshes.cylinder(0.022, TOP - 0.035, 0.03).moved(x, y) for x in (-0.7, 0.7) for y in (0.53, 1.23)]
    return [Part(top, wood), *(Part(leg, wood) for leg in legs)]


def _wall_things(shop: Workshop) -> Thing:
    frame = shop.material("wood", 11)
    parts = place(_picture(shop, 12, "poster", 0.42, 0.52, frame), -0.42, BACK, 1.28)
    parts += place(_picture(shop, 13, "scribbles", 0.34, 0.26, frame), 1.02, BACK, 1.25)
    parts += place(_picture(shop, 14, "mosaic", 0.4, 0.4, frame), LEFT, 0.55, 1.2, yaw=90)
    parts += place(_grid_panel(), -0.95, BACK - 0.03, 1.15)
    parts += place(_bookshelf(shop, 15, 0.8), 0.35, BACK, 1.42)
    parts += place(shop.thing("vase", 16, "marble"), 0.62, BACK - 0.12, 1.44, 0.22)
    return parts


def _picture(shop: Workshop, seed: int, texture: str, width: float, height: float, frame: Material) -> Thing:
    border = [meshes.box(width + 0.06, 0.03, 0.03).moved(0, -0.015, z) for z in (-0.03, height)] + [
        meshes.box(0.03, 0.03, height).moved(s * (width + 0.03) / 2, -0.015) for s in (-1, 1)
    ]
    return [
        Part(meshes.merge(border), frame),
        Part(meshes.quad(width, height).moved(y=-0.01), shop.material(texture, seed)),
    ]


def _grid_panel() -> Thing:
    """A wire pin board."""
    bars = [meshes.rod((x, 0, 0), (x, 0, 0.6), 0.0025) for x in np.linspace(-0.22, 0.22, 9)]
    bars += [meshes.rod((-0.22, 0, z), (0.22, 0, z), 0.0025) for z in np.linspace(0, 0.6, 12)]
    return [Part(meshes.merge(bars), Material(flat(np.array([0.1, 0.1, 0.11])), "plastic", 0.3))]


def _bookshelf(shop: Workshop, seed: int, width: float) -> Thing:
    rng = np.random.default_rng(seed)
    parts = [Part(meshes.box(width, 0.22, 0.02).moved(y=-0.11), shop.material("wood", seed))]
    covers = [
        shop.material(name, 50 + i) for i, name in enumerate(("poster", "fabric", "poster", "stripes", "mottled"))
    ]
    x = -width / 2 + 0.02
    while x < width * 0.18:
        thickness, height = rng.uniform(0.018, 0.045), rng.uniform(0.17, 0.26)
        book = meshes.box(thickness, rng.uniform(0.13, 0.19), height).moved(x + thickness / 2, -0.11, 0.02)
        parts.append(Part(book, covers[int(rng.integers(len(covers)))]))
        x += thickness + 0.002
    return parts


def _desk_things(shop: Workshop) -> Thing:
    parts = place(shop.thing("plant", 24, "terrazzo"), -0.56, 1.0, TOP, 0.5)
    parts += place(shop.thing("books", 34, "poster"), 0.5, 1.0, TOP, 0.42, yaw=12)
    parts += place(shop.thing("rods", 22, "fabric"), 0.14, 1.08, TOP, 0.24)
    parts += place(shop.thing("vase", 26, "mosaic"), -0.2, 1.05, TOP, 0.33)
    parts += place(shop.thing("spiral", 27, "wood"), 0.58, 0.66, TOP, 0.34)
    parts += place(_desk_lamp(), -0.36, 1.14, TOP, yaw=-35)
    parts += place(_chess(shop), -0.02, 0.72, TOP, yaw=18)
    parts += place(_basket(shop), -0.46, 0.7, TOP, yaw=25)
    parts += place(_mug(shop), 0.3, 0.82, TOP)
    parts += place(_papers(shop), 0.3, 0.6, TOP)
    ball = Part(meshes.sphere(0.045), Material(flat(np.array([0.95, 0.85, 0.7])), "metal", 0.12))
    ring = Part(meshes.torus(0.05, 0.014), shop.material("stripes", 28, "glossy", 0.08))
    parts += place([ball], 0.17, 0.57, TOP) + place([ring], -0.27, 0.55, TOP)
    return parts


def _desk_lamp() -> Thing:
    """A lamp on thin jointed arms (not lit)."""
    steel = Material(flat(np.array([0.85, 0.85, 0.88])), "metal", 0.2)
    paint = Material(flat(np.array([0.72, 0.16, 0.1])), "glossy", 0.08)
    elbow, head = (0.0, 0.02, 0.3), (0.0, -0.24, 0.47)
    arms = [
        meshes.rod((x, y0, z0), (x, y1, z1), 0.004)
        for x in (-0.012, 0.012)
        for (_, y0, z0), (_, y1, z1) in (((0, 0, 0.02), elbow), (elbow, head))
    ]
    shade = meshes.lathe(np.array([[0.075, 0.0], [0.03, 0.09], [0.02, 0.12], [0.0, 0.12]]))
    shade = shade.rotated(rotation("x", -25)).moved(0, -0.26, 0.38)
    return [Part(meshes.merge(arms), steel), Part(meshes.cylinder(0.07, 0.02), paint), Part(shade, paint)]


def _chess(shop: Workshop) -> Thing:
    """A board with turned pieces."""
    board = Part(meshes.box(0.34, 0.34, 0.018), shop.material("checker", 61, "plastic", 0.15))
    radii = np.array([0, 16, 16, 9, 6, 11, 5, 10, 6, 0]) / 1000
    heights = np.array([0, 0, 6, 14, 32, 37, 41, 50, 60, 63]) / 1000
    outline = np.stack([radii, heights], axis=1)
    rng = np.random.default_rng(3)
    pale, dark = np.array([0.85, 0.75, 0.55]), np.array([0.16, 0.09, 0.06])
    parts = [board]
    for i, spot in enumerate(rng.permutation(36)[:15]):
        x, y = (spot % 6 - 2.5) * 0.052, (spot // 6 - 2.5) * 0.052
        piece = meshes.lathe(outline, 24).scaled(1, 1, rng.uniform(0.9, 1.7))
        finish = Material(flat(pale if i % 2 else dark), "plastic", 0.12)
        parts.append(Part(piece.moved(x, y, 0.018), finish))
    return parts


def _basket(shop: Workshop) -> Thing:
    """A wire basket with fruit."""
    angles = np.linspace(0, 2 * np.pi, 49)
    circle = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    wires = [meshes.tube((0.07 + 0.4 * z) * circle + [0, 0, z], 0.002) for z in (0.003, 0.03, 0.06, 0.09)]
    wires += [meshes.rod(0.07 * c, 0.106 * c + [0, 0, 0.09], 0.0016) for c in circle[:-1:2]]
    fruit = [
        Part(
            meshes.blob(np.random.default_rng(i), 0.036, 0.06).moved(x, y, z),
            shop.material("mottled", 70 + i, "glossy", 0.12),
        )
        for i, (x, y, z) in enumerate(
            ((-0.03, 0.02, 0.01), (0.04, 0.03, 0.012), (0.0, -0.04, 0.01), (0.01, 0.01, 0.058))
        )
    ]
    return [Part(meshes.merge(wires), Material(flat(np.array([0.8, 0.6, 0.35])), "metal", 0.2)), *fruit]


def _mug(shop: Workshop) -> Thing:
    outline = [[0, 0], [0.036, 0], [0.04, 0.01], [0.04, 0.095], [0.036, 0.095], [0.035, 0.012], [0, 0.012]]
    angles = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 20)
    handle = np.stack([0.038 + 0.03 * np.cos(angles), 0 * angles, 0.05 + 0.03 * np.sin(angles)], axis=1)
    glaze = shop.material("stripes", 81, "glossy", 0.07)
    return [Part(meshes.lathe(np.array(outline)).retiled(2, 1), glaze), Part(meshes.tube(handle, 0.005), glaze)]


def _papers(shop: Workshop) -> Thing:
    sheets = [meshes.box(0.15, 0.21, 0.001) for _ in range(3)]
    turned = [
        s.rotated(rotation("z", a)).moved(0.03 * i, 0, 0.001 * i)
        for i, (s, a) in enumerate(zip(sheets, (8, -14, 24), strict=True))
    ]
    return [Part(sheet, shop.material("poster", 90 + i)) for i, sheet in enumerate(turned)]


def _floor_things(shop: Workshop) -> Thing:
    parts = place(shop.thing("stool", 30, "fabric"), 0.15, 0.05, 0, 0.7, yaw=200)
    parts += place(shop.thing("bush", 31, "wood"), -1.05, 0.95, 0, 0.95)
    parts += place(shop.thing("crate", 32, "planks"), 1.1, 0.95, 0, 0.8, yaw=10)
    return parts
