# SPDX-License-Identifier: Apache-2.0
"""Mitsuba 3 takes parts, lights and cameras, and gives photos and surface positions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from harmonizer_ns.errors import of_extra
from harmonizer_ns.synthesis.scenes.cameras import Lens
from harmonizer_ns.synthesis.scenes.meshes import Mesh
from harmonizer_ns.synthesis.scenes.objects import Material, Part
from harmonizer_ns.synthesis.scenes.textures import to_uint8

Variant = Literal["scalar_rgb", "llvm_ad_rgb"]
NEAR = 0.01
"""Where camera rays begin, metres in front of the camera; distances are measured from there."""
_BOUNCES = 5
"""Longest light path that is followed."""


@dataclass(frozen=True)
class Light:
    """A light is a glowing surface.

    Args:
        mesh: its shape.
        radiance: linear RGB, one colour or an image.
    """

    mesh: Mesh
    radiance: Float[np.ndarray, " 3"] | Float[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Stage:
    """A stage is everything that is to be rendered.

    Args:
        parts: surfaces.
        lights: glowing surfaces.
        sky: linear RGB environment in latitude-longitude layout, the top row is up; None inside closed rooms.
    """

    parts: list[Part]
    lights: list[Light] = field(default_factory=list)
    sky: Float[np.ndarray, "h w 3"] | None = None


def load_mitsuba(variant: Variant, threads: int = 0) -> Any:
    """Import Mitsuba and choose its variant.

    Args:
        variant: ``scalar_rgb`` runs everywhere; ``llvm_ad_rgb`` is two to three times faster and needs libLLVM.
            With AVX-512, libLLVM 15 was seen to abort the process and 19 to work; the environment variable
            ``DRJIT_LIBLLVM_PATH`` chooses the library.
        threads: number of worker threads; 0 keeps Mitsuba's choice.

    Raises:
        InputError: when Mitsuba is missing, with the command that installs it.
    """
    with of_extra("synthesis", "rendering scenes"):
        import drjit
        import mitsuba
    mitsuba.set_variant(variant)
    mitsuba.set_log_level(mitsuba.LogLevel.Error)
    if threads:
        drjit.set_thread_count(threads)
    return mitsuba


class StageRenderer:
    """Renders one stage from any camera.

    Args:
        stage: what to render.
        lens: intrinsics of all cameras.
        variant: Mitsuba variant, see `load_mitsuba`.
        threads: number of threads, 0 for all cores.
    """

    def __init__(self, stage: Stage, lens: Lens, variant: Variant = "scalar_rgb", threads: int = 0) -> None:
        self._mi = load_mitsuba(variant, threads)
        self._lens = lens
        self._scene = self._mi.load_dict(scene_dict(self._mi, stage))
        self._path = self._mi.load_dict({"type": "path", "max_depth": _BOUNCES})
        self._positions = self._mi.load_dict({"type": "aov", "aovs": "position:position,distance:depth"})

    def radiance(self, pose: Float[np.ndarray, "4 4"], spp: int, seed: int) -> Float[np.ndarray, "h w 3"]:
        """Render a linear RGB image from a camera (OpenCV axes) with ``spp`` samples for each pixel."""
        sensor = make_sensor(self._mi, self._lens, pose, "gaussian", {"type": "multijitter", "sample_count": spp})
        return np.array(self._mi.render(self._scene, integrator=self._path, sensor=sensor, spp=spp, seed=seed))[..., :3]

    def positions(self, pose: Float[np.ndarray, "4 4"], seed: int = 0) -> Float[np.ndarray, "h w 3"]:
        """Find the world position of one random surface point inside each pixel; nan where nothing was hit."""
        sensor = make_sensor(self._mi, self._lens, pose, "box", {"type": "independent", "sample_count": 1})
        image = np.array(self._mi.render(self._scene, integrator=self._positions, sensor=sensor, spp=1, seed=seed))
        positions, distance = image[..., -4:-1].astype(np.float64), image[..., -1:]
        return np.where(distance > 0, positions, np.nan)


def make_sensor(mi: Any, lens: Lens, pose: Float[np.ndarray, "4 4"], rfilter: str, sampler: dict[str, Any]) -> Any:
    """Build a camera with OpenCV axes; Mitsuba's look along +z with x to the left and y up."""
    film = {
        "type": "hdrfilm",
        "width": lens.width,
        "height": lens.height,
        "rfilter": {"type": rfilter},
        "pixel_format": "rgb",
        "component_format": "float32",
    }
    return mi.load_dict(
        {
            "type": "perspective",
            "fov": lens.degrees(lens.width),
            "fov_axis": "x",
            "near_clip": NEAR,
            "far_clip": 1000.0,
            "to_world": mi.ScalarTransform4f((pose @ np.diag([-1.0, -1.0, 1.0, 1.0])).tolist()),
            "film": film,
            "sampler": sampler,
        }
    )


def auto_exposure(images: list[Float[np.ndarray, "h w 3"]], percentile: float = 55.0, level: float = 0.22) -> float:
    """Find the factor that brings a percentile of the pixels' brightest channels to a linear ``level``."""
    brightest = np.concatenate([image.max(axis=-1).ravel() for image in images])
    return level / max(float(np.percentile(brightest, percentile)), 1e-6)


def develop(radiance: Float[np.ndarray, "h w 3"], exposure: float) -> UInt8[np.ndarray, "h w 3"]:
    """Turn linear radiance into 8-bit sRGB (IEC 61966-2-1), highlights above 0.8 rolled off softly, not clipped."""
    linear = np.maximum(radiance * exposure, 0)
    over = np.maximum(linear - 0.8, 0)
    linear = np.minimum(linear, 0.8) + 0.2 * (1 - np.exp(-over / 0.4))
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return to_uint8(srgb)


def scene_dict(mi: Any, stage: Stage) -> dict[str, Any]:
    """Describe the stage for ``load_dict``; its shapes may be put into several scenes."""
    scene: dict[str, Any] = {"type": "scene", **surfaces(mi, stage.parts), **glowing(mi, stage.lights)}
    if stage.sky is not None:
        upright = mi.ScalarTransform4f().rotate([1, 0, 0], 90)
        sky = mi.Bitmap(np.ascontiguousarray(stage.sky, dtype=np.float32))
        scene["sky"] = {"type": "envmap", "bitmap": sky, "to_world": upright}
    return scene


def surfaces(mi: Any, parts: list[Part], name: str = "part") -> dict[str, Any]:
    """Describe shapes by name, for ``load_dict``."""
    bsdfs: dict[int, Any] = {}
    shapes = {}
    for i, part in enumerate(parts):
        material = part.material
        if id(material) not in bsdfs:
            bsdfs[id(material)] = mi.load_dict(_bsdf(mi, material))
        shapes[f"{name}{i}"] = _mesh(mi, part.mesh, {"bsdf": bsdfs[id(material)]})
    return shapes


def glowing(mi: Any, lights: list[Light]) -> dict[str, Any]:
    """Describe area lights by name, for ``load_dict``; they shine on the side that their faces show."""
    return {
        f"light{i}": _mesh(mi, light.mesh, {"emitter": {"type": "area", "radiance": _glow(mi, light)}})
        for i, light in enumerate(lights)
    }


def _mesh(mi: Any, mesh: Mesh, extras: dict[str, Any]) -> Any:
    properties = mi.Properties()
    for name, value in extras.items():
        properties[name] = mi.load_dict(value) if isinstance(value, dict) else value
    shape = mi.Mesh("mesh", len(mesh.vertices), len(mesh.faces), properties, mesh.smooth, True)
    params = mi.traverse(shape)
    params["vertex_positions"] = mesh.vertices.ravel().astype(np.float32)
    params["faces"] = mesh.faces.ravel().astype(np.uint32)
    params["vertex_texcoords"] = (mesh.uv * [1, -1] + [0, 1]).ravel().astype(np.float32)
    params.update()
    if mesh.smooth:  # only now: the update above makes normals of its own, with visible seams
        params["vertex_normals"] = _normals(mesh).ravel().astype(np.float32)
        params.update()
    return shape


def _normals(mesh: Mesh) -> Float[np.ndarray, "v 3"]:
    """Average face normals around each position, weighted by area: seams of closed surfaces vanish."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    face = np.cross(b - a, c - a)
    _, spot = np.unique(np.round(mesh.vertices, 7), axis=0, return_inverse=True)
    total = np.zeros((spot.max() + 1, 3))
    np.add.at(total, spot.ravel()[mesh.faces], face[:, None])
    normals = total[spot.ravel()]
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def _glow(mi: Any, light: Light) -> dict[str, Any]:
    radiance = np.ascontiguousarray(light.radiance, dtype=np.float32)
    if radiance.ndim == 1:
        return {"type": "rgb", "value": radiance.tolist()}
    return {"type": "bitmap", "bitmap": mi.Bitmap(radiance), "raw": True}


def _bsdf(mi: Any, material: Material) -> dict[str, Any]:
    if material.finish == "glass":
        return {"type": "thindielectric"}
    texture = {"type": "bitmap", "bitmap": mi.Bitmap(np.ascontiguousarray(to_uint8(material.texture)))}
    rough = {"alpha": material.roughness}
    plastic = {"type": "roughplastic", "diffuse_reflectance": texture, **rough}
    sides = {
        "diffuse": {"type": "diffuse", "reflectance": texture},
        "plastic": plastic,
        "glossy": plastic,
        "metal": {"type": "roughconductor", "material": "Al", "specular_reflectance": texture, **rough},
    }
    return {"type": "twosided", "bsdf": sides[material.finish]}
