# SPDX-License-Identifier: Apache-2.0
"""Closed rooms with lamps, or open ground below a sky, surround the objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from harmonizer_ns.synthesis.scenes import meshes
from harmonizer_ns.synthesis.scenes.meshes import rotation
from harmonizer_ns.synthesis.scenes.objects import Material, Part, TextureSource, Thing, flat, place
from harmonizer_ns.synthesis.scenes.patterns import color, noise, smoothstep
from harmonizer_ns.synthesis.scenes.render import Light, Stage
from harmonizer_ns.synthesis.scenes.textures import TEXTURES, texture_among

_WALLS = {"plaster": 0.3, "bricks": 0.2, "planks": 0.12, "tiles": 0.1, "marble": 0.06, "mottled": 0.08, "stripes": 0.06,
          "fabric": 0.08}  # fmt: skip
_FLOORS = {"planks": 0.4, "tiles": 0.15, "terrazzo": 0.12, "checker": 0.1, "mosaic": 0.08, "rug": 0.1, "marble": 0.05}
_GROUNDS = {"ground": 0.5, "mosaic": 0.16, "bricks": 0.1, "planks": 0.08, "tiles": 0.06, "mottled": 0.1}


@dataclass(frozen=True)
class Extent:
    """An extent is the ground rectangle that must lie inside: x from ``low[0]`` to ``high[0]``, y likewise; metres."""

    low: Float[np.ndarray, " 2"]
    high: Float[np.ndarray, " 2"]

    @property
    def center(self) -> Float[np.ndarray, " 2"]:
        """Middle of the rectangle."""
        return (self.low + self.high) / 2

    @property
    def size(self) -> Float[np.ndarray, " 2"]:
        """Width (x) and depth (y)."""
        return self.high - self.low


def room(rng: np.random.Generator, extent: Extent, texture: TextureSource) -> Stage:
    """Build a rectangular room with pictures and shelves on its walls and lamps on its ceiling."""
    (width, depth), height = extent.size, float(rng.uniform(2.4, 3.6))
    boards, period = Material(texture_among(rng, 512, _FLOORS)), rng.uniform(0.8, 2.0)
    parts = [Part(meshes.floor(width, depth).retiled(width / period, depth / period), boards)]
    ceiling = meshes.floor(width, depth).rotated(rotation("x", 180)).moved(z=height)
    parts.append(Part(ceiling, Material(TEXTURES["plaster"](rng, 256))))
    paper, names = Material(texture_among(rng, 512, _WALLS)), list(_WALLS)
    for side in range(4):
        length = width if side % 2 == 0 else depth
        away = depth / 2 if side % 2 == 0 else width / 2
        material = paper if rng.random() < 0.7 else Material(TEXTURES[names[int(rng.integers(len(names)))]](rng, 512))
        wall = place(_wall(rng, length, height, material, texture), y=away)
        parts += place(wall, yaw=90 * side)
    x, y = extent.center
    return Stage(place(parts, x, y), _lamps(rng, extent, height))


def open_ground(rng: np.random.Generator, extent: Extent, texture: TextureSource) -> Stage:
    """Build ground with facades, walls and hills around it, below a clouded sky with a veiled sun."""
    reach = 14.0 + float(extent.size.max())
    field = noise(rng, 96, 3.0)
    x, y = np.meshgrid(*[np.linspace(-reach, reach, 96)] * 2)
    away = smoothstep(0.25 * reach, 0.6 * reach, np.hypot(x, y))
    land = meshes.terrain(field * away, 2 * reach, rng.uniform(0.2, 0.8))
    cover = texture_among(rng, 512, _GROUNDS)
    parts = [Part(land.retiled(reach, reach), Material(cover))]
    for i in range(int(rng.integers(9, 16))):
        parts += _backdrop(rng, 24 * i + rng.uniform(-10, 10), rng.uniform(0.3, 0.7) * reach, texture)
    cx, cy = extent.center
    return Stage(place(parts, cx, cy), [], sky(rng))


@dataclass(frozen=True)
class Sun:
    """A bright lobe in the sky.

    Args:
        elevation: radians above the horizon.
        azimuth: radians.
        width: standard deviation in radians; wider ones cast softer shadows.
        strength: irradiance across its beam, where a bright sky without sun gives about 3.
        tint: linear RGB.
    """

    elevation: float
    azimuth: float
    width: float
    strength: float
    tint: tuple[float, float, float] = (1.0, 0.93, 0.8)


def veiled_sun(rng: np.random.Generator) -> Sun:
    """Draw a wide and faint sun."""
    elevation, azimuth = np.radians(rng.uniform(25, 65)), rng.uniform(0, 2 * np.pi)
    return Sun(float(elevation), azimuth, float(np.radians(rng.uniform(5, 14))), rng.uniform(0.5, 4.0))


def sky(rng: np.random.Generator, sun: Sun | None = None, rows: int = 128) -> Float[np.ndarray, "rows columns 3"]:
    """Paint a horizon gradient, clouds and a bright lobe for the sun (veiled unless given); linear RGB."""
    columns = 2 * rows
    elevation = (0.5 - (np.arange(rows) + 0.5) / rows)[:, None] * np.pi
    azimuth = (np.arange(columns) + 0.5)[None] / columns * 2 * np.pi
    height = np.clip(np.sin(elevation), 0, 1)[..., None] ** 0.5
    zenith, horizon = np.array([0.25, 0.45, 0.95]), np.array([0.9, 0.92, 0.95]) * rng.uniform(0.7, 1.1)
    image = horizon + (zenith - horizon) * height * rng.uniform(0.3, 1.0) + 0 * azimuth[..., None]
    clouds = smoothstep(rng.uniform(-1, 0.8), 2.0, noise(rng, columns, 2.2, (1.0, 2.0))[:rows])
    image = image + (1.1 - image) * clouds[..., None] * rng.uniform(0.4, 1.0)
    image = np.where(elevation[..., None] < 0, 0.35 * horizon, image)
    sun = sun or veiled_sun(rng)
    cosine = np.sin(elevation) * np.sin(sun.elevation)
    cosine = cosine + np.cos(elevation) * np.cos(sun.elevation) * np.cos(azimuth - sun.azimuth)
    lobe = np.exp((cosine - 1) / sun.width**2)[..., None]
    strength = sun.strength / (2 * np.pi * sun.width**2)
    return (image + strength * lobe * np.array(sun.tint)).astype(np.float32)


def _wall(rng: np.random.Generator, length: float, height: float, material: Material, texture: TextureSource) -> Thing:
    """Build one wall at y = 0 that faces -y, with its skirting board, pictures and a shelf."""
    period = rng.uniform(1.0, 2.2)
    parts = [Part(meshes.quad(length, height).retiled(length / period, height / period), material)]
    trim = Material(TEXTURES["wood"](rng, 128))
    parts.append(Part(meshes.box(length, 0.02, 0.1).moved(y=-0.01).retiled(length, 1), trim))
    slots = max(1, int(length / 1.3))
    for i in range(slots):
        x = (i + 0.5 + rng.uniform(-0.2, 0.2)) * length / slots - length / 2
        if rng.random() < 0.75:
            parts += place(_picture(rng, texture, trim), x=x, z=rng.uniform(0.9, 1.4))
        elif rng.random() < 0.6:
            parts += place(_shelf(rng, texture, trim), x=x, z=rng.uniform(0.6, 1.5))
    return parts


def _picture(rng: np.random.Generator, texture: TextureSource, frame: Material) -> Thing:
    width, height = rng.uniform(0.4, 1.0), rng.uniform(0.4, 0.9)
    border = Part(meshes.box(width + 0.08, 0.03, height + 0.08).moved(y=-0.015, z=-0.04), frame)
    gloss = "glossy" if rng.random() < 0.25 else "diffuse"
    return [border, Part(meshes.quad(width, height).moved(y=-0.035), Material(texture(), gloss, 0.1))]


def _shelf(rng: np.random.Generator, texture: TextureSource, board: Material) -> Thing:
    """A board with books and boxes on it."""
    parts, x = [Part(meshes.box(1.0, 0.26, 0.03).moved(y=-0.13), board)], -0.47
    covers = [Material(texture()) for _ in range(4)]
    while x < 0.42:
        width, height = rng.uniform(0.025, 0.08), rng.uniform(0.15, 0.3)
        book = meshes.box(width, rng.uniform(0.15, 0.22), height).moved(x + width / 2, -0.13, 0.03)
        parts.append(Part(book, covers[int(rng.integers(4))]))
        x += width + (0.12 if rng.random() < 0.15 else 0.003)
    return parts


def _lamps(rng: np.random.Generator, extent: Extent, height: float) -> list[Light]:
    """Hang glowing panels below the ceiling, and now and then a bright window in front of a wall."""
    warmth = np.array([1.0, rng.uniform(0.8, 1.0), rng.uniform(0.55, 1.05)])
    lights, (cx, cy), (width, depth) = [], extent.center, extent.size
    for _ in range(int(rng.integers(1, 4))):
        x, y = cx + rng.uniform(-0.3, 0.3) * width, cy + rng.uniform(-0.3, 0.3) * depth
        panel = meshes.floor(*rng.uniform(0.8, 2.4, 2)).rotated(rotation("x", 180))
        lights.append(Light(panel.moved(x, y, height - 0.02), rng.uniform(2, 6) * warmth))
    if rng.random() < 0.6:
        window = meshes.quad(rng.uniform(0.8, 2.0), 1.3).moved(y=depth / 2 - 0.03, z=0.8)
        if rng.random() < 0.5:
            window = window.moved(y=(width - depth) / 2).rotated(rotation("z", rng.choice([90, -90])))
        lights.append(Light(window.moved(cx, cy), rng.uniform(1.5, 4) * _view(rng)))
    return lights


def _view(rng: np.random.Generator) -> Float[np.ndarray, "64 64 3"]:
    """Paint what a window shows: hazy sky, land and glazing bars; linear RGB."""
    clear = sky(rng)[32:64, :64]
    land = 0.25 * TEXTURES["ground"](rng, 64)[:32] * np.array([0.9, 1.0, 1.1])
    image = np.concatenate([np.minimum(clear, 1.5), land]).astype(np.float32)
    bar = np.abs((np.arange(64) + 0.5) / 64 * 2 % 1 - 0.5) > 0.46
    image[bar], image[:, bar] = 0.08, 0.08
    return image


def _backdrop(rng: np.random.Generator, azimuth: float, distance: float, texture: TextureSource) -> Thing:
    """Build a house, a wall or a hill at some azimuth (degrees) around the origin."""
    kind = rng.integers(3)
    if kind == 0:
        height = rng.uniform(2.5, 7.0)
        solid = meshes.box(rng.uniform(3, 7), 3.0, height).retiled(3, 2)
        thing = [Part(solid, Material(TEXTURES["bricks" if rng.random() < 0.6 else "plaster"](rng, 512)))]
        glass = Material(flat(color(rng, (0.05, 0.3))), "glossy", 0.08)
        panes = [
            meshes.box(0.8, 0.05, 1.0).moved(x, -1.52, z) for x in (-1, 0.3) for z in np.arange(0.8, height - 1.2, 1.7)
        ]
        thing += [Part(pane, glass) for pane in panes]
    elif kind == 1:
        wall = meshes.box(rng.uniform(3, 6), 0.25, rng.uniform(0.8, 2.2)).retiled(3, 1)
        thing = [Part(wall, Material(texture()))]
    else:
        hill = meshes.blob(rng, rng.uniform(1.0, 2.5), 0.3).retiled(6, 4).moved(z=-0.5)
        thing = [Part(hill, Material(TEXTURES["ground"](rng, 256)))]
    angle = np.radians(azimuth)
    return place(thing, -distance * np.sin(angle), distance * np.cos(angle), 0.0, yaw=azimuth + rng.uniform(-20, 20))
