# SPDX-License-Identifier: Apache-2.0
"""Random scenes are made in bulk: ``harmonizer scenes procedural --output DIR --count N --seed S``.

Every scene follows from (seed, index) alone, so a longer run extends a shorter one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from harmonizer_ns.errors import check_limits
from harmonizer_ns.files import remove_leftovers, write_json, written_whole
from harmonizer_ns.media import image_files
from harmonizer_ns.progress import counted
from harmonizer_ns.synthesis.scenes.cameras import Lens, jitter, look_at, polar
from harmonizer_ns.synthesis.scenes.objects import THINGS, Thing, ThingMaker, place
from harmonizer_ns.synthesis.scenes.patterns import Texture
from harmonizer_ns.synthesis.scenes.render import Stage, StageRenderer, Variant, auto_exposure, develop
from harmonizer_ns.synthesis.scenes.rooms import Extent, open_ground, room
from harmonizer_ns.synthesis.scenes.seeds import find_seed_points
from harmonizer_ns.synthesis.scenes.textures import random_texture
from harmonizer_ns.synthesis.scenes.writer import RenderedCapture, numbered, write_capture


@dataclass(frozen=True)
class ProceduralConfig:
    """Random textured scenes, each photographed along one smooth path."""

    output: Path
    """Folder that receives one folder for each scene."""
    count: int = 28
    """Number of scenes."""
    seed: int = 0
    """Seed of the whole set."""
    frames: int = 36
    """Photos of each scene."""
    width: int = 240
    """Photo width in pixels."""
    height: int = 135
    """Photo height in pixels."""
    spp: int = 64
    """Light samples for each pixel; squares are best."""
    points: int = 3000
    """Largest number of seed points of a scene."""
    textures: Path | None = None
    """Folder of photos to cut textures from, besides the procedural ones."""
    variant: Variant = "scalar_rgb"
    """Mitsuba variant: llvm_ad_rgb is two to three times faster and needs a recent libLLVM (19 works)."""
    threads: int = 0
    """Worker threads; 0 uses all cores."""

    def __post_init__(self) -> None:
        check_limits(self, count=(1, math.inf), frames=(2, math.inf), spp=(1, math.inf))


Disc = tuple[float, float, float]
"""A place on the ground that is occupied: x, y, radius."""


class Route(NamedTuple):
    """A route is where the photographer goes: camera centres, what they look at, and where the things stand."""

    name: str
    eyes: Float[np.ndarray, "n 3"]
    targets: Float[np.ndarray, "n 3"]
    focus: Float[np.ndarray, " 2"]


def arc(rng: np.random.Generator, count: int) -> Route:
    """Walk part of a circle around the things, with changing distance and height."""
    return _around(rng, "arc", rng.uniform(50, 150), count)


def orbit(rng: np.random.Generator, count: int) -> Route:
    """Walk nearly once around the things."""
    return _around(rng, "orbit", rng.uniform(220, 350), count)


def walk(rng: np.random.Generator, count: int) -> Route:
    """Walk forward between things, looking ahead and a little to the sides."""
    t = np.linspace(0, 1, count)
    eyes = np.stack([0 * t, rng.uniform(2.5, 4.5) * t - 4.0, rng.uniform(0.8, 1.5) + 0 * t], axis=-1)
    eyes = jitter(rng, eyes, 0.12)
    pan = np.radians(rng.uniform(5, 30)) * np.sin(2 * np.pi * (rng.uniform(0.4, 1.2) * t + rng.random()))
    ahead = np.stack([np.sin(pan), np.cos(pan), -0.12 + 0 * t], axis=-1)
    return Route("walk", eyes, eyes + 3 * ahead, np.array([0.0, 0.5]))


def facing_grid(rng: np.random.Generator, count: int) -> Route:
    """Walk rows of a plane that faces the things, back and forth."""
    rows = int(rng.integers(2, 5))
    across = rng.uniform(0.8, 1.8)
    t = np.linspace(0, rows, count, endpoint=False)
    sweep = np.where(t.astype(int) % 2 == 0, t % 1, 1 - t % 1) - 0.5
    climb = np.floor(t) + np.clip((t % 1 - 0.8) / 0.2, 0, 1)
    eyes = np.stack([across * sweep, -rng.uniform(2.0, 3.2) + 0 * t, 0.7 + 0.35 * climb], axis=-1)
    eyes = jitter(rng, eyes, 0.04)
    aim = np.array([0.0, 0.4, rng.uniform(0.3, 0.7)])
    return Route("grid", eyes, jitter(rng, np.tile(aim, (count, 1)) + 0.4 * (eyes - eyes.mean(0)), 0.05), aim[:2])


def _around(rng: np.random.Generator, name: str, span: float, count: int) -> Route:
    t = np.linspace(0, 1, count)
    azimuth = rng.uniform(0, 360) + span * t
    radius = rng.uniform(1.9, 3.2) + rng.uniform(-0.5, 0.5) * np.sin(2 * np.pi * rng.uniform(0.3, 1) * t)
    height = rng.uniform(0.7, 2.0) + rng.uniform(-0.35, 0.35) * np.sin(2 * np.pi * rng.uniform(0.3, 1) * t)
    eyes = jitter(rng, polar(np.zeros(3), azimuth, radius, height), 0.06)
    targets = jitter(rng, np.tile([0.0, 0.0, rng.uniform(0.25, 0.6)], (count, 1)), 0.08)
    return Route(name, eyes, targets, np.zeros(2))


ROUTES: tuple[Callable[[np.random.Generator, int], Route], ...] = (arc, orbit, walk, facing_grid)


def make_scenes(config: ProceduralConfig) -> list[Path]:
    """Render all scenes that are not there yet.

    A scene appears under its final name only when it is complete.

    Raises:
        InputError: when the texture folder holds no photos.
    """
    photos = image_files(config.textures) if config.textures else []
    remove_leftovers(config.output)
    return [make_scene(config, index, photos) for index in counted(range(config.count), "scenes")]


def make_scene(config: ProceduralConfig, index: int, photos: list[Path]) -> Path:
    """Render one scene, unless its folder exists, and return its folder."""
    folder = config.output / f"scene_{index:04d}"
    if not folder.exists():
        with written_whole(folder) as partial:
            capture, facts = photograph(config, index, photos)
            write_capture(partial, capture)
            write_json(partial / "scene.json", facts)
    return folder


def photograph(config: ProceduralConfig, index: int, textures: list[Path]) -> tuple[RenderedCapture, dict[str, object]]:
    """Design a scene and take its photos; also returns what kind of scene it is."""
    rng = np.random.default_rng([config.seed, index])
    lens = Lens(config.width, config.height, config.width * float(rng.uniform(0.7, 1.3)))
    route = ROUTES[int(rng.integers(len(ROUTES)))](rng, config.frames)
    outdoors = bool(rng.random() < 0.4)
    stage, count = design_stage(rng, route, outdoors, textures)
    renderer, poses = StageRenderer(stage, lens, config.variant, config.threads), look_at(route.eyes, route.targets)
    seeds = rng.integers(0, 2**31, len(poses)).tolist()
    linear = [
        renderer.radiance(pose, config.spp, seed)
        for pose, seed in zip(counted(poses, "photos of a scene"), seeds, strict=True)
    ]
    exposure = auto_exposure(linear) * rng.uniform(0.75, 1.25)
    photos = [develop(image, exposure) for image in linear]
    surfaces = [renderer.positions(pose) for pose in poses]
    points = find_seed_points(rng, photos, surfaces, poses, lens, config.points)
    facts = {"seed": config.seed, "index": index, "route": route.name, "outdoors": outdoors, "things": count}
    return RenderedCapture(photos, poses, lens, points, numbered("frame_", len(photos), ".png")), facts


def design_stage(
    rng: np.random.Generator, route: Route, outdoors: bool, photos: list[Path], taken: Sequence[Disc] = ()
) -> tuple[Stage, int]:
    """Draw surroundings that hold the whole route, and 6 to 20 things out of its way and of ``taken``."""

    def texture() -> Texture:
        return random_texture(rng, 256, photos)

    extent = _extent(rng, route)
    stage = (open_ground if outdoors else room)(rng, extent, texture)
    things = scatter(
        rng,
        int(rng.integers(6, 21)),
        make=lambda maker: place(maker(rng, texture), scale=rng.uniform(0.6, 1.5)),
        spots=lambda radius: _spots(rng, route, extent, radius),
        taken=list(taken),
        apart=0.85,
    )
    parts = [part for _, thing in things for part in thing]
    return Stage([*stage.parts, *parts], stage.lights, stage.sky), len(things)


def _extent(rng: np.random.Generator, route: Route) -> Extent:
    around = np.concatenate([route.eyes[:, :2], route.focus + np.array([[-1.6, -1.6], [1.6, 2.2]])])
    return Extent(around.min(axis=0) - rng.uniform(0.5, 1.2, 2), around.max(axis=0) + rng.uniform(0.5, 1.2, 2))


def scatter(
    rng: np.random.Generator,
    count: int,
    make: Callable[[ThingMaker], Thing],
    spots: Callable[[float], Iterable[Float[np.ndarray, " 2"]]],
    taken: list[Disc],
    height: float = 0.0,
    apart: float = 1.0,
) -> list[tuple[str, Thing]]:
    """Put random things side by side, and name them; one that finds no room is left out.

    Args:
        rng: source of randomness.
        count: things that are tried.
        make: makes a thing in its final size.
        spots: offers places for a thing of some radius, of which the first free one is taken.
        taken: places that are occupied; those of the things are added.
        height: of the ground they stand on.
        apart: least distance of two things, in sums of their radii.
    """
    placed = []
    for _ in range(count):
        name = str(rng.choice(list(THINGS)))
        thing = make(THINGS[name])
        radius = footprint(thing)
        for x, y in spots(radius):
            if all(np.hypot(x - a, y - b) > apart * (radius + r) for a, b, r in taken):
                taken.append((x, y, radius))
                placed.append((name, place(thing, x, y, height, yaw=rng.uniform(0, 360))))
                break
    return placed


def footprint(thing: Thing) -> float:
    """Measure a thing's radius about its own axis, metres."""
    return max(float(np.hypot(*p.mesh.vertices[:, :2].T).max()) for p in thing)


def _spots(rng: np.random.Generator, route: Route, extent: Extent, radius: float) -> Iterator[Float[np.ndarray, " 2"]]:
    """Draw places on the ground, most near the focus, that are inside and out of the cameras' way."""
    for _ in range(40):
        near = route.focus + rng.normal(0, 0.9, 2) * [1, 1.6 if route.name == "walk" else 1]
        spot = near if rng.random() < 0.75 else rng.uniform(extent.low, extent.high)
        inside = (spot - radius > extent.low).all() and (spot + radius < extent.high).all()
        if inside and np.linalg.norm(route.eyes[:, :2] - spot, axis=1).min() > radius + 0.45:
            yield spot
