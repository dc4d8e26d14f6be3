# SPDX-License-Identifier: Apache-2.0
"""Things are pasted without their shadows: random scenes are rendered with and without what is inserted into them.

With B the scene alone, F the scene with the things, alpha their coverage and M the pixels that they darken, brighten
or mirror in, the damaged image is ``F + M (1 - alpha) (B - F)`` in linear light: the things without shadows and
reflections where M is 1, and F itself, the target, where M is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.errors import InputError, check_limits
from harmonizer_ns.images import local_mean, to_float
from harmonizer_ns.metrics import psnr
from harmonizer_ns.progress import counted
from harmonizer_ns.synthesis.scenes.cameras import Lens
from harmonizer_ns.synthesis.scenes.insertion import Insertion, design_insertion
from harmonizer_ns.synthesis.scenes.layers import FINE, LayerRenderer, Layers
from harmonizer_ns.synthesis.scenes.objects import Part
from harmonizer_ns.synthesis.scenes.render import auto_exposure, develop
from harmonizer_ns.synthesis.streams.base import Made
from harmonizer_ns.types import Frames

_TRIES = 30
_PREVIEW = 60
_VISIBLE = (0.015, 0.4)
"""Share of the preview that should show the inserted things."""
_PSNR = (19.0, 36.0)
"""Between image and target of the preview, dB: shadows that are neither all there is nor hard to find."""
_THRESHOLD = 2.5 / 255
"""Change of a display value, averaged over a few pixels, that counts as shadow."""
_LIMIT = 16 / 255


@dataclass(frozen=True)
class ShadowSettings:
    """Random scenes with inserted things, rendered by Mitsuba 3."""

    width: int = 240
    """Width of the frames in pixels."""
    height: int = 135
    """Height of the frames in pixels."""
    frames: int = 6
    """Frames of a clip."""
    spp: int = 64
    """Light samples for each pixel, a multiple of 4: time is proportional to it, noise to its inverse root."""
    outdoors: float = 0.5
    """Share of the scenes that lie below a sky; the others are rooms lit by lamps."""
    objects: tuple[int, int] = (1, 3)
    """Fewest and most things that are inserted."""

    def __post_init__(self) -> None:
        check_limits(self, width=(32, 4096), height=(32, 4096), frames=(1, math.inf), outdoors=(0, 1), objects=(1, 12))
        if self.spp < FINE**2 or self.spp % FINE**2:
            raise ValueError(f"spp should be a multiple of {FINE**2}, got {self.spp}")


def make_shadows(source: None, settings: ShadowSettings, seed: int) -> list[Made]:
    """Render one clip: the target with all shadows, the image without those of the inserted things.

    Raises:
        InputError: when Mitsuba is missing, or no scene suits the settings.
    """
    rng = np.random.default_rng(seed)
    scene = _worthwhile(rng, settings)
    renderer = LayerRenderer(scene.stage, scene.inserted)
    views = list(zip(scene.poses, rng.integers(0, 2**31, settings.frames).tolist(), strict=True))
    layers = [renderer.layers(pose, scene.lens, settings.spp, own) for pose, own in counted(views, "views")]
    exposure = _exposure(layers) * float(rng.uniform(0.8, 1.25))
    parameters = {**scene.facts, "exposure": round(exposure, 4)}
    made = []
    for pose, layer in zip(scene.poses, layers, strict=True):
        image, target, mask = compose(layer, exposure)
        depth = torch.from_numpy(renderer.depth(pose, scene.lens))[None, None]
        frames = Frames(image[None], torch.ones_like(depth), depth, scene.lens.cameras(pose[None], torch.float32))
        made.append(Made(image, target, parameters, mask, frames))
    return made


def _worthwhile(rng: np.random.Generator, settings: ShadowSettings) -> Insertion:
    """Draw scenes until a small preview shows the things and a shadow that matters, at both ends of the clip."""
    outdoors = bool(rng.random() < settings.outdoors)
    for _ in range(_TRIES):
        count = int(rng.integers(settings.objects[0], settings.objects[1] + 1))
        scene = design_insertion(rng, (settings.width, settings.height), settings.frames, outdoors, count)
        preview = LayerRenderer(replace(scene.stage, parts=_matt(scene.stage.parts)), _matt(scene.inserted))
        if all(_tells(preview, pose, scene.lens) for pose in scene.poses[[0, -1]]):
            return scene
    raise InputError(f"no visible shadow in {_TRIES} scenes: another seed, or other sizes and objects than {settings}")


def _matt(parts: list[Part]) -> list[Part]:
    """Take away the gloss, which takes Mitsuba long to prepare."""
    return [replace(part, material=replace(part.material, finish="diffuse")) for part in parts]


def _tells(preview: LayerRenderer, pose: Float[np.ndarray, "4 4"], lens: Lens) -> bool:
    scale = _PREVIEW / lens.width
    small = Lens(_PREVIEW, max(1, round(lens.height * scale)), lens.focal * scale)
    layers = preview.layers(pose, small, 16, 0)
    image, target, _ = compose(layers, _exposure([layers]))
    change = psnr(image[None], target[None]).item()
    return _VISIBLE[0] < layers.alpha.mean() < _VISIBLE[1] and _PSNR[0] < change < _PSNR[1]


def _exposure(layers: list[Layers]) -> float:
    """Expose as a camera does: by the middle tones, unless much would be blown out."""
    images = [layer.full for layer in layers]
    return min(auto_exposure(images), auto_exposure(images, percentile=92, level=0.7))


def compose(
    layers: Layers, exposure: float
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "3 h w"], Float[Tensor, "1 h w"]]:
    """Compose image, target and mask."""
    target = _photo(layers.full, exposure)
    region = _changed(target, _photo(layers.pasted, exposure))
    weight = region[0, ..., None].numpy()
    image = _photo(layers.full + weight * (layers.pasted - layers.full), exposure)
    return image, target, region * torch.from_numpy(1 - layers.alpha).permute(2, 0, 1).float()


def _photo(radiance: Float[np.ndarray, "h w 3"], exposure: float) -> Float[Tensor, "3 h w"]:
    return to_float(torch.from_numpy(develop(radiance, exposure))).permute(2, 0, 1)


def _changed(target: Float[Tensor, "3 h w"], pasted: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 h w"]:
    """Mark where the images differ beyond noise, with a soft edge outside; 0 elsewhere.

    Signed and limited differences are averaged first: noise cancels, and a lone dot does not count.
    """
    reach = max(1, round(target.shape[-1] / 80))
    limited = (pasted - target).clamp(-_LIMIT, _LIMIT)[None]
    change = local_mean(limited, 2 * reach - 1).abs().amax(1, keepdim=True)
    grown = F.max_pool2d((change > _THRESHOLD).float(), 2 * reach + 1, 1, reach)
    return local_mean(grown, 2 * reach + 1)[0]
