# SPDX-License-Identifier: Apache-2.0
"""Triangle meshes made from formulas. Z is up, units are metres, solids stand on z = 0 unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Mesh:
    """A mesh is triangles with texture coordinates.

    Args:
        vertices: positions.
        faces: vertex indices, counter-clockwise seen from outside.
        uv: texture coordinates, which may leave [0, 1] (textures repeat).
        smooth: whether normals are interpolated across faces that share vertices.
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    uv: Float[np.ndarray, "v 2"]
    smooth: bool = True

    def scaled(self, x: float, y: float | None = None, z: float | None = None) -> Mesh:
        """Scale about the origin, by one factor or one for each axis."""
        factors = np.array([x, x if y is None else y, x if z is None else z])
        return Mesh(self.vertices * factors, self.faces, self.uv, self.smooth)

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Mesh:
        """Move the mesh."""
        return Mesh(self.vertices + np.array([x, y, z]), self.faces, self.uv, self.smooth)

    def rotated(self, rotation: Float[np.ndarray, "3 3"]) -> Mesh:
        """Apply a rotation matrix."""
        return Mesh(self.vertices @ rotation.T, self.faces, self.uv, self.smooth)

    def retiled(self, u: float, v: float) -> Mesh:
        """Repeat the texture ``u`` by ``v`` times as often."""
        return Mesh(self.vertices, self.faces, self.uv * np.array([u, v]), self.smooth)


def rotation(axis: str, degrees: float) -> Float[np.ndarray, "3 3"]:
    """Build the right-handed rotation about ``"x"``, ``"y"`` or ``"z"``."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def merge(meshes: list[Mesh]) -> Mesh:
    """Make one mesh out of many; smooth if the first one is."""
    offsets = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + o for m, o in zip(meshes, offsets, strict=True)]),
        np.concatenate([m.uv for m in meshes]),
        meshes[0].smooth,
    )


def surface(points: Float[np.ndarray, "rows columns 3"], smooth: bool = True) -> Mesh:
    """Span a surface over a grid of points; u runs along the columns, v along the rows.

    Its front is where rows run upwards and columns to the right.
    """
    rows, columns = points.shape[:2]
    u, v = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows))
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1)
    lower = np.stack([corner, corner + 1, corner + columns + 1], axis=1)
    upper = np.stack([corner, corner + columns + 1, corner + columns], axis=1)
    uv = np.stack([u.ravel(), v.ravel()], axis=1)
    return Mesh(points.reshape(-1, 3).astype(float), np.concatenate([lower, upper]), uv, smooth)


def quad(width: float, height: float) -> Mesh:
    """A rectangle in the x-z plane that faces -y, centred on the z axis, standing on z = 0."""
    x, z = np.meshgrid([-width / 2, width / 2], [0.0, height])
    return surface(np.stack([x, np.zeros_like(x), z], axis=-1), smooth=False)


def floor(width: float, depth: float) -> Mesh:
    """A horizontal rectangle that faces up, centred at the origin."""
    return quad(width, depth).moved(z=-depth / 2).rotated(rotation("x", -90))


def box(width: float, depth: float, height: float) -> Mesh:
    """A box on z = 0. Each side shows the whole texture."""
    sides = [quad(w, height).moved(y=-d / 2) for w, d in ((width, depth), (depth, width)) * 2]
    walls = [side.rotated(rotation("z", 90 * i)) for i, side in enumerate(sides)]
    bottom = floor(width, depth).rotated(rotation("x", 180))
    return merge([*walls, floor(width, depth).moved(z=height), bottom])


def lathe(profile: Float[np.ndarray, "p 2"], segments: int = 48) -> Mesh:
    """Turn a profile of (radius, height), from bottom to top along the outside, about the z axis."""
    angles = np.linspace(0, 2 * np.pi, segments + 1)
    radius, height = profile[:, :1], profile[:, 1:]
    points = np.stack(
        [radius * np.cos(angles), radius * np.sin(angles), np.broadcast_to(height, (len(profile), len(angles)))],
        axis=-1,
    )
    return surface(points)


def cylinder(radius: float, height: float, top_radius: float | None = None) -> Mesh:
    """A capped cylinder or cone."""
    top = radius if top_radius is None else top_radius
    side = lathe(np.array([[radius, 0.0], [top, height]]))
    caps = [lathe(np.array([[top, height], [0.0, height]])), lathe(np.array([[0.0, 0.0], [radius, 0.0]]))]
    return merge([side, *caps])


def sphere(radius: float) -> Mesh:
    """A sphere that touches z = 0."""
    polar = np.linspace(-np.pi / 2, np.pi / 2, 33)
    return lathe(radius * np.stack([np.cos(polar), 1 + np.sin(polar)], axis=1))


def torus(radius: float, thickness: float) -> Mesh:
    """A ring that lies on z = 0; ``radius`` to the middle of the tube."""
    angles = np.linspace(0, 2 * np.pi, 25)
    return lathe(np.stack([radius + thickness * np.cos(angles), thickness * (1 + np.sin(angles))], axis=1))


def blob(rng: np.random.Generator, radius: float, bumps: float = 0.25) -> Mesh:
    """A sphere displaced by a few random plane waves: a stone, a potato, a cushion."""
    base = sphere(1.0).moved(z=-1.0)
    waves = rng.standard_normal((6, 3)) * rng.uniform(1, 4, (6, 1))
    phases = rng.uniform(0, 2 * np.pi, 6)
    height = 1 + bumps * np.sin(base.vertices @ waves.T + phases).mean(axis=1) * 1.7
    vertices = radius * base.vertices * height[:, None] * rng.uniform(0.7, 1.2, 3)
    vertices[:, 2] -= vertices[:, 2].min() + 0.04 * radius
    return Mesh(vertices, base.faces, base.uv)


def tube(path: Float[np.ndarray, "p 3"], radius: float, segments: int = 8) -> Mesh:
    """Sweep a circle along a path: wires, rods, stems."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-12
    helper = np.eye(3)[np.argmin(np.abs(tangent).sum(axis=0))]
    side = np.cross(tangent, helper)
    side /= np.linalg.norm(side, axis=1, keepdims=True) + 1e-12
    up = np.cross(side, tangent)
    angles = np.linspace(0, 2 * np.pi, segments + 1)[None, :, None]
    return surface(path[:, None] + radius * (np.cos(angles) * side[:, None] - np.sin(angles) * up[:, None]))


def rod(start: npt.ArrayLike, end: npt.ArrayLike, radius: float) -> Mesh:
    """A straight tube."""
    return tube(np.stack([np.asarray(start, float), np.asarray(end, float)]), radius)


def leaf(length: float, width: float, bend: float) -> Mesh:
    """A pointed leaf from the origin along +x, curving down by ``bend`` radians."""
    along, across = np.linspace(0, 1, 9), np.linspace(-1, 1, 5)
    half = width / 2 * np.sin(np.pi * along**0.8) + 1e-3 * width
    y = across[:, None] * half[None]
    angle = bend * along
    x = np.cumsum(np.cos(angle)) * length / len(along)
    z = -np.cumsum(np.sin(angle)) * length / len(along) + 0.25 * np.abs(y)
    return surface(np.stack([np.broadcast_to(x, y.shape), y, z], axis=-1))


def terrain(field: Float[np.ndarray, "n n"], extent: float, height: float) -> Mesh:
    """A height field of side ``extent`` centred at the origin."""
    axis = np.linspace(-extent / 2, extent / 2, field.shape[0])
    x, y = np.meshgrid(axis, axis)
    return surface(np.stack([x, y, height * field], axis=-1))
