# SPDX-License-Identifier: Apache-2.0
"""Random scenes with things inserted in front of a moving camera: on the ground below a sky, or in a room by lamps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from harmonizer_ns.synthesis.scenes import meshes
from harmonizer_ns.synthesis.scenes.cameras import Lens, Poses, look_at, polar
from harmonizer_ns.synthesis.scenes.objects import Material, Part, Thing, ThingMaker, flat, place
from harmonizer_ns.synthesis.scenes.patterns import color
from harmonizer_ns.synthesis.scenes.procedural import Disc, Route, design_stage, footprint, scatter
from harmonizer_ns.synthesis.scenes.render import Light, Stage
from harmonizer_ns.synthesis.scenes.rooms import Sun, sky
from harmonizer_ns.synthesis.scenes.textures import TEXTURES, random_texture


@dataclass(frozen=True)
class Insertion:
    """An insertion is a scene and what is put into it.

    Args:
        stage: the surroundings, with their lights.
        inserted: parts of the inserted things.
        poses: the camera's path.
        lens: of all frames.
        facts: what was drawn, JSON.
    """

    stage: Stage
    inserted: list[Part]
    poses: Poses
    lens: Lens
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Support:
    """A level rectangle around the z axis to put things on: half sides, height, and the furniture that bears it."""

    half: Float[np.ndarray, " 2"]
    height: float
    furniture: Thing

    @property
    def name(self) -> str:
        return "table" if self.furniture else "ground"


def design_insertion(
    rng: np.random.Generator, size: tuple[int, int], frames: int, outdoors: bool, count: int
) -> Insertion:
    """Draw a scene, up to ``count`` inserted things that stand on its ground or table, light, and a short camera path.

    Args:
        rng: source of all that is random.
        size: width and height of the frames in pixels.
        frames: length of the path.
        outdoors: whether the scene lies below a sky, else in a room.
        count: things to insert; one that finds no room is left out, the first always does.
    """
    lens = Lens(*size, size[0] * float(rng.uniform(0.85, 1.35)))
    support = _table(rng) if rng.random() < 0.4 else _Support(np.array([0.8, 0.8]), 0.0, [])
    discs: list[Disc] = []
    inserted = scatter(
        rng,
        count,
        make=lambda maker: _small(rng, maker, support),
        spots=lambda radius: _spots(rng, np.maximum(support.half - radius, 0)),
        taken=discs,
        height=support.height,
    )
    route = _glide(rng, frames, np.append(np.mean(discs, axis=0)[:2], support.height))
    taken = [(0.0, 0.0, footprint(support.furniture))] if support.furniture else discs
    taken = [(x, y, radius + 0.15) for x, y, radius in taken] + _line_of_sight(route)
    stage, things = design_stage(rng, route, outdoors, [], taken)
    stage = replace(stage, parts=stage.parts + support.furniture)
    stage, light = _daylight(rng, stage) if outdoors else _lamplight(rng, stage, support.height + 0.1)
    names = [name for name, _ in inserted]
    facts = {"outdoors": outdoors, "support": support.name, "inserted": names, "things": things, "light": light}
    parts = [part for _, thing in inserted for part in thing]
    return Insertion(stage, parts, look_at(route.eyes, route.targets), lens, facts)


def _table(rng: np.random.Generator) -> _Support:
    width, depth, height = rng.uniform(0.9, 1.4), rng.uniform(0.65, 0.9), rng.uniform(0.4, 0.8)
    name = ("wood", "planks", "marble", "plaster", "fabric", "terrazzo")[int(rng.integers(6))]
    cover = Material(TEXTURES[name](rng, 512), "plastic" if rng.random() < 0.5 else "diffuse", 0.25)
    top = meshes.box(width, depth, 0.04).moved(z=height - 0.04)
    spots = [(sx * (width / 2 - 0.05), sy * (depth / 2 - 0.05)) for sx in (-1, 1) for sy in (-1, 1)]
    legs = meshes.merge([meshes.cylinder(0.025, height - 0.04).moved(x, y) for x, y in spots])
    furniture = place([Part(top, cover), Part(legs, Material(flat(color(rng))))])
    return _Support(np.array([width, depth]) / 2, float(height), furniture)


def _small(rng: np.random.Generator, maker: ThingMaker, support: _Support) -> Thing:
    """Make a thing that fits on the support, without glass: what is seen through it would keep its shadow."""
    thing = [_opaque(part) for part in maker(rng, lambda: random_texture(rng, 256))]
    return place(thing, scale=rng.uniform(0.5, 1.0) * (0.4 if support.furniture else 1.0))


def _spots(rng: np.random.Generator, free: Float[np.ndarray, " 2"]) -> Iterator[Float[np.ndarray, " 2"]]:
    """Draw places within a rectangle of these half sides."""
    return (rng.uniform(-free, free) for _ in range(60))


def _opaque(part: Part) -> Part:
    """Glass becomes gloss."""
    return replace(part, material=replace(part.material, finish="glossy")) if part.material.finish == "glass" else part


def _glide(rng: np.random.Generator, count: int, center: Float[np.ndarray, " 3"]) -> Route:
    """Walk a few steps around what stands at ``center``, smooth as from a slow gimbal."""
    t = np.linspace(0, 1, count)
    near = 0.62 if center[2] else 1.0
    azimuth = rng.uniform(0, 360) + rng.choice([-1, 1]) * rng.uniform(1.2, 3.5) * (count - 1) * t
    radius = near * (rng.uniform(2.0, 3.2) + rng.uniform(-0.06, 0.06) * count * t)
    level = center[2] + near * (rng.uniform(0.7, 1.8) + rng.uniform(-0.04, 0.04) * count * t)
    aim = center + np.append(rng.uniform(-0.15, 0.15, 2), near * rng.uniform(0.0, 0.3))
    return Route("glide", polar(center, azimuth, radius, level), np.tile(aim, (count, 1)), np.zeros(2))


def _line_of_sight(route: Route) -> list[Disc]:
    """Keep free the places between the camera and what it looks at."""
    middle = route.eyes[len(route.eyes) // 2, :2]
    return [(float(x), float(y), 0.4) for x, y in np.linspace(0.2, 1, 5)[:, None] * middle]


def _daylight(rng: np.random.Generator, stage: Stage) -> tuple[Stage, dict[str, Any]]:
    """Draw a sun in a more or less cloudy sky: from a small bright disc to a wide glow, warmer the lower it stands."""
    elevation, warmth = rng.uniform(18, 65), rng.uniform(0.0, 1.0)
    strength, width = rng.uniform(2.5, 9.0), 1.0 * 6 ** rng.random()
    low = warmth * (1 - (elevation - 18) / 60)
    tint = (1.0, 1 - 0.25 * low, 0.95 - 0.5 * low)
    drawn = {"elevation": elevation, "azimuth": rng.uniform(0, 360), "width": width}
    drawn = {name: round(float(value), 3) for name, value in drawn.items()}
    angles = {name: float(np.radians(value)) for name, value in drawn.items()}
    sun = Sun(**angles, strength=round(float(strength), 3), tint=tint)
    facts = {"kind": "sun", **drawn, "strength": sun.strength, "tint": [round(value, 3) for value in tint]}
    return replace(stage, sky=sky(rng, sun, 256)), facts


def _lamplight(rng: np.random.Generator, stage: Stage, height: float) -> tuple[Stage, dict[str, Any]]:
    """Dim the room's own lamps, and hang a panel above or beside the things, at ``height``, that gives most light."""
    dim = round(float(rng.uniform(0.1, 0.5)), 3)
    low, high = _bounds(stage)
    aim = np.array([0.0, 0.0, height])
    azimuth, away, level = rng.uniform(0, 360), rng.uniform(0.8, 2.4), rng.uniform(height + 1.0, high[2] - 0.1)
    spot = np.clip(polar(np.zeros(3), np.array([azimuth]), away, level)[0], low + 0.2, high - 0.05)
    side, irradiance = round(float(rng.uniform(0.1, 0.6)), 3), float(rng.uniform(2, 6))
    warmth = np.array([1.0, rng.uniform(0.75, 1.0), rng.uniform(0.45, 1.1)])
    turn = look_at(spot[None] + [[1e-3, 0, 0]], aim)[0, :3, :3]
    radiance = irradiance * ((spot - aim) ** 2).sum() / side**2 * warmth
    panel = Light(meshes.floor(side, side).rotated(turn).moved(*spot), radiance)
    own = [replace(light, radiance=dim * light.radiance) for light in stage.lights]
    facts = {"place": spot.round(3).tolist(), "side": side, "radiance": radiance.round(2).tolist(), "dimmed": dim}
    return replace(stage, lights=[*own, panel]), {"kind": "lamp", **facts}


def _bounds(stage: Stage) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    """Find the corners of the box that holds all parts."""
    low = np.min([part.mesh.vertices.min(axis=0) for part in stage.parts], axis=0)
    return low, np.max([part.mesh.vertices.max(axis=0) for part in stage.parts], axis=0)
