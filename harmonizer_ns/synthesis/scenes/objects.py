# SPDX-License-Identifier: Apache-2.0
"""Things to put into a scene: meshes with materials.

Each maker of the table takes a random generator and a source of textures and returns parts that stand on z = 0
within a footprint of about one metre; the scene scales and places them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from harmonizer_ns.synthesis.scenes import meshes
from harmonizer_ns.synthesis.scenes.meshes import Mesh, rotation
from harmonizer_ns.synthesis.scenes.patterns import Texture, color
from harmonizer_ns.synthesis.scenes.textures import TEXTURES

Finish = Literal["diffuse", "plastic", "glossy", "metal", "glass"]
TextureSource = Callable[[], Texture]


@dataclass(frozen=True)
class Material:
    """A material is how a surface looks.

    Args:
        texture: albedo (tint for metal; unused for glass), display values.
        finish: reflection model.
        roughness: microfacet roughness of all but diffuse and glass.
    """

    texture: Texture
    finish: Finish = "diffuse"
    roughness: float = 0.2


@dataclass(frozen=True)
class Part:
    """A part is one mesh of one material."""

    mesh: Mesh
    material: Material


Thing = list[Part]
ThingMaker = Callable[[np.random.Generator, TextureSource], Thing]


def place(thing: Thing, x: float = 0.0, y: float = 0.0, z: float = 0.0, scale: float = 1.0, yaw: float = 0.0) -> Thing:
    """Scale, turn about z (degrees) and move."""
    turn = rotation("z", yaw)
    return [replace(p, mesh=p.mesh.scaled(scale).rotated(turn).moved(x, y, z)) for p in thing]


def flat(rgb: np.ndarray) -> Texture:
    """A texture of one colour."""
    return np.ones((4, 4, 3), np.float32) * np.asarray(rgb, np.float32)


def random_finish(rng: np.random.Generator, texture: Texture) -> Material:
    """Draw a finish: mostly diffuse, some plastic and gloss, metal seldom, glass hardly ever."""
    finishes: tuple[Finish, ...] = ("diffuse", "plastic", "glossy", "metal", "glass")
    finish = finishes[rng.choice(5, p=[0.52, 0.25, 0.14, 0.075, 0.015])]
    return Material(texture, finish, float(rng.uniform(0.06, 0.12) if finish == "glossy" else rng.uniform(0.15, 0.45)))


def crate(rng: np.random.Generator, texture: TextureSource) -> Thing:
    """A box."""
    size = rng.uniform(0.35, 0.8, 3)
    return [Part(meshes.box(*size), random_finish(rng, texture()))]


def ball(rng: np.random.Generator, texture: TextureSource) -> Thing:
    """A sphere."""
    return [Part(meshes.sphere(rng.uniform(0.2, 0.4)).retiled(2, 1), random_finish(rng, texture()))]


def column(rng: np.random.Generator, texture: TextureSource) -> Thing:
    """A cylinder, cone stump or barrel."""
    radius, top = rng.uniform(0.12, 0.35, 2)
    return [Part(meshes.cylinder(radius, rng.uniform(0.4, 1.3), top).retiled(2, 1), random_finish(rng, texture()))]


def ring(rng: np.random.Generator, texture: TextureSource) -> Thing:
    """One to three stacked tori."""
    radius, tube = rng.uniform(0.2, 0.36), rng.uniform(0.05, 0.12)
    mesh = meshes.torus(radius, tube).retiled(6, 1)
    count = int(rng.integers(1, 4))
    return [Part(mesh.moved(z=1.9 * tube * i), random_finish(rng, texture())) for i in range(count)]


def stone(rng: np.random.Generator, texture: TextureSource) -> Thing:
    """A smooth irregular lump."""
    mesh = meshes.blob(rng, rng.uniform(0.2, 0.45), rng.uniform(0.1, 0.4)).retiled(2, 1)
    return [Part(mesh, random_finish(rng, texture()))]


def vase(rng: np.random.Generator, texture: TextureSource) -> Thing:
    """A turned vessel with a random smooth profile."""
    t = np.linspace(0, 1, 40)
    waves = sum(rng.uniform(-0.35, 0.35) * np.sin(np.pi * (k + 1) * t + rng.uniform(0, 6)) / (k + 1) for k in range(4))
    radius = np.maximum(rng.uniform(0.14, 0.24) * (1 + waves), 0.04)
    profile = np.stack([radius, rng.uniform(0.5, 1.1) * t], axis=1)
    closed = np.concatenate([[[0.0, 0.0]], profile, [[0.7 * radius[-1], profile[-1, 1] - 0.05]], [[0.0, 0.1]]])
    return [Part(meshes.lathe(closed).retiled(2, 1), random_finish(rng, texture()))]


def lattice(rng: np.random.Generator, texture: TextureSource) -> Thing:
    """A cage of thin rods."""
    size, count = rng.uniform(0.4, 0.8, 3), int(rng.integers(3, 7))
    radius = rng.uniform(0.006, 0.016)
    x, y, z = (np.linspace(-s / 2, s / 2, count) for s in size)
    bars = [meshes.rod((x[0], b, c), (x[-1], b, c), radius) for b in (y[0], y[-1]) for c in z]
    bars += [meshes.rod((a, y[0], c), (a, y[-1], c), radius) for a in (x[0], x[-1]) for c in z]
    bars += [meshes.rod((a, b, z[0]), (a, b, z[-1]), radius) for a in x for b in (y[0], y[-1])]
    bars += [meshes.rod((a, b, z[0]), (a, b, z[-1]), radius) for a in (x[0], x[-1]) for b in y]
    return [Part(meshes.merge(bars).moved(z=size[2] / 2 + radius), random_finish(rng, texture()))]


def rods(rng: np.random.Generator, texture: TextureSource) -> Thing:
    """Pencils, reeds or poles that stand in a cup or bucket and lean outwards."""
    radius, height = rng.uniform(0.1, 0.2), rng.uniform(0.25, 0.45)
    cup = Part(_cup(radius, height), random_finish(rng, texture()))
    sticks = []
    for _ in range(int(rng.integers(6, 18))):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.95)
        base = 0.6 * radius * rng.uniform(0, 1) * np.array([np.cos(angle + 3), np.sin(angle + 3)])
        tip = reach * radius * 2.2 * np.array([np.cos(angle), np.sin(angle)])
        mesh = meshes.rod((*base, 0.03), (*tip, rng.uniform(0.7, 1.2)), rng.uniform(0.008, 0.018))
        sticks.append(Part(mesh, Material(flat(color(rng)), "plastic")))
    return [cup, *sticks]


def spiral(rng: np.random.Generator, texture: TextureSource) -> Thing:
    """A coil of wire around a thin stand."""
    turns, radius, height = rng.uniform(4, 10), rng.uniform(0.12, 0.3), rng.uniform(0.5, 1.1)
    t = np.linspace(0, 1, int(24 * turns))
    swell = radius * (0.4 + 0.6 * np.sin(np.pi * t) ** rng.uniform(0.5, 2))
    path = np.stack(
        [swell * np.cos(2 * np.pi * turns * t), swell * np.sin(2 * np.pi * turns * t), 0.03 + height * t], 1
    )
    wire = Part(meshes.tube(path, rng.uniform(0.008, 0.02)), random_finish(rng, flat(color(rng))))
    foot = Part(meshes.cylinder(0.5 * radius, 0.03), random_finish(rng, texture()))
    return [wire, foot, Part(meshes.rod((0, 0, 0), (0, 0, height), 0.012), Material(flat(color(rng)), "metal"))]


def plant(rng: np.random.Generator, texture: TextureSource) -> Thing:
    """A pot with long bent leaves."""
    pot_height, radius = rng.uniform(0.2, 0.35), rng.uniform(0.13, 0.2)
    pot = Part(_cup(radius, pot_height), random_finish(rng, texture()))
    soil = Part(
        meshes.lathe(np.array([[radius * 0.95, 0], [0, 0.01]])).moved(z=0.85 * pot_height),
        Material(TEXTURES["ground"](rng, 64)),
    )
    blades, count = [], int(rng.integers(14, 40))
    for i in range(count):
        blade = meshes.leaf(rng.uniform(0.35, 0.75), rng.uniform(0.05, 0.14), rng.uniform(0.2, 1.8))
        tilt = rotation("z", 137.5 * i) @ rotation("y", -rng.uniform(25, 85))
        blades.append(blade.rotated(tilt).moved(z=0.85 * pot_height))
    return [pot, soil, Part(meshes.merge(blades), Material(TEXTURES["leafage"](rng, 256), "plastic", 0.35))]


def bush(rng: np.random.Generator, texture: TextureSource) -> Thing:
    """A stem with a cloud of small leaves."""
    height, count = rng.uniform(0.6, 1.3), int(rng.integers(120, 350))
    directions = rng.standard_normal((count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    spots = directions * rng.uniform(0.2, 0.36) * rng.random((count, 1)) ** 0.33 + np.array([0, 0, height])
    blades = []
    for spot in spots:
        blade = meshes.leaf(rng.uniform(0.07, 0.16), rng.uniform(0.035, 0.07), rng.uniform(-0.6, 0.8))
        turn = rotation("z", rng.uniform(0, 360)) @ rotation("y", rng.uniform(-50, 50))
        blades.append(blade.rotated(turn).moved(*spot))
    stem = Part(meshes.cylinder(0.035, height, 0.02), Material(TEXTURES["wood"](rng, 128)))
    return [stem, Part(meshes.merge(blades), Material(TEXTURES["leafage"](rng, 128), "diffuse"))]


def books(rng: np.random.Generator, texture: TextureSource) -> Thing:
    """A pile of books, each turned a little."""
    parts, top = [], 0.0
    for _ in range(int(rng.integers(2, 7))):
        width, depth, height = rng.uniform(0.5, 0.75), rng.uniform(0.35, 0.5), rng.uniform(0.04, 0.12)
        cover = Part(meshes.box(width, depth, height), random_finish(rng, TEXTURES["poster"](rng, 256)))
        parts += place([cover], z=top, yaw=rng.uniform(-14, 14))
        top += height
    return parts


def stool(rng: np.random.Generator, texture: TextureSource) -> Thing:
    """A small table or chair of thin legs, maybe with a back of bars."""
    side, height, leg = rng.uniform(0.4, 0.7), rng.uniform(0.35, 0.7), rng.uniform(0.012, 0.03)
    finish = random_finish(rng, texture())
    parts = [Part(meshes.box(side, side, 0.04).moved(z=height), random_finish(rng, texture()))]
    corners = [(sx * 0.44 * side, sy * 0.44 * side) for sx in (-1, 1) for sy in (-1, 1)]
    parts += [Part(meshes.rod((1.15 * x, 1.15 * y, 0), (x, y, height), leg), finish) for x, y in corners]
    if rng.random() < 0.5:
        xs = np.linspace(-0.44, 0.44, int(rng.integers(4, 8))) * side
        back = [meshes.rod((x, 0.44 * side, height), (x, 0.52 * side, height + 0.45), 0.6 * leg) for x in xs]
        back.append(meshes.rod((xs[0], 0.52 * side, height + 0.45), (xs[-1], 0.52 * side, height + 0.45), leg))
        parts.append(Part(meshes.merge(back), finish))
    return parts


def sign(rng: np.random.Generator, texture: TextureSource) -> Thing:
    """A board on a thin pole."""
    height = rng.uniform(0.7, 1.2)
    board = meshes.box(rng.uniform(0.35, 0.6), 0.02, rng.uniform(0.25, 0.45)).moved(y=-0.03, z=height - 0.3)
    pole = Part(meshes.cylinder(0.015, height), Material(flat(color(rng)), "metal", 0.3))
    return [pole, Part(board, random_finish(rng, TEXTURES["poster"](rng, 256)))]


def fence(rng: np.random.Generator, texture: TextureSource) -> Thing:
    """Slats between two rails."""
    count, height = int(rng.integers(5, 11)), rng.uniform(0.4, 0.8)
    finish = random_finish(rng, texture())
    xs = np.linspace(-0.48, 0.48, count)
    slats = [meshes.box(0.05, 0.015, height * rng.uniform(0.93, 1.05)).moved(x=x) for x in xs]
    rails = [meshes.box(1.0, 0.02, 0.04).moved(y=0.02, z=h * height) for h in (0.2, 0.75)]
    return [Part(meshes.merge(slats + rails), finish)]


def _cup(radius: float, height: float) -> Mesh:
    """An open vessel with a wall."""
    inner = 0.9 * radius
    outline = [(0, 0), (0.8 * radius, 0), (radius, height), (inner, height), (0.75 * radius, 0.05), (0, 0.05)]
    return meshes.lathe(np.array(outline, float)).retiled(3, 1)


THINGS: dict[str, ThingMaker] = {maker.__name__: maker for maker in (
    crate, ball, column, ring, stone, vase, lattice, rods, spiral, plant, bush, books, stool, sign, fence,
)}  # fmt: skip
"""All makers by name. Their order counts: scenes draw by it."""
