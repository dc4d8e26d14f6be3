# SPDX-License-Identifier: Apache-2.0
"""Enhancers that know the truth stand in for repairs of a stated quality: what does the training loop make of those?

Every flaw is another one in each view and the same in each round, as an enhancer's are, but the tint, which is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.flow import warp_by_flow
from harmonizer_ns.images import resize
from harmonizer_ns.poses import rotation_angle
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.views import Picture

Flaw = Callable[[Picture, torch.Generator], Picture]
"""Makes of a photo what a repair would look like; draws from the generator, which is another one for each view."""

GRID = 24
"""Pixels between the random values that smooth fields are drawn through."""
GAINS = 0.03
"""Standard deviation of the gains of a misaligned repair's channels."""
BLUR = 1.5
"""Standard deviation in pixels of a soft repair's Gaussian."""
INVENTED = 0.1
"""Share of the pixels that an inventive repair replaces."""
TINT = (0.08, 0.0, -0.08)
"""What a tinted repair adds to red, green and blue."""
_SAME_PLACE, _SAME_ANGLE = 1e-4, 1e-3  # of the cameras' extent; radians


@dataclass(frozen=True)
class TruthEnhancer:
    """Gives back the photo taken where a render was made, spoiled as stated.

    Where none was taken, as on the way to a target, it returns the render with confidence 0: no repair.

    Args:
        capture: its held-out photos are the truth, its frame is the renders'.
        flaw: what is wrong with the repairs.
    """

    capture: Capture
    flaw: Flaw
    max_references = 0
    max_context = 0
    needs_geometry = False
    errors_repeat = False

    @torch.no_grad()
    def enhance(self, frames: Frames, context: Context = Context()) -> Repaired:
        """Look the truth of each frame up by its camera."""
        rgb, confidence = frames.rgb.clamp(0, 1), torch.zeros_like(frames.alpha)
        for number, camera in enumerate(frames.cameras):
            view = self.find(camera)
            if view is not None:
                repair = resize(self.repair(view)[None], *frames.rgb.shape[-2:])[0]
                rgb[number], confidence[number] = repair.to(rgb), 1.0
        return Repaired(rgb, confidence)

    def repair(self, view: int) -> Picture:
        """Spoil one photo of the capture."""
        generator = torch.Generator().manual_seed(view)
        return self.flaw(self.capture.frames(view).rgb[0].cpu(), generator).clamp(0, 1)

    def find(self, camera: Cameras) -> int | None:
        """Find the held-out photo that was taken by this camera, a batch of one."""
        pose = camera.camera_to_world[0].cpu().double()
        for view in self.capture.test:
            truth = self.capture.cameras[view].camera_to_world[0].cpu().double()
            angle = rotation_angle(pose[None, :3, :3], truth[None, :3, :3]).item()
            if (pose[:3, 3] - truth[:3, 3]).norm() <= _SAME_PLACE * self.capture.extent and angle <= _SAME_ANGLE:
                return view
        return None

    def to(self, device: torch.device | str) -> TruthEnhancer:
        """It has nothing to move."""
        return self


def perfect(photo: Picture, generator: torch.Generator) -> Picture:
    """Leave the photo as it is."""
    return photo


def misaligned(photo: Picture, generator: torch.Generator, rms: float) -> Picture:
    """Move pixels by a smooth random field of so many pixels (root mean square of each axis), and scale channels."""
    field = smooth_field(2, photo.shape[1], photo.shape[2], generator)
    field *= rms / field.square().mean().sqrt()
    gains = 1 + GAINS * torch.randn(3, 1, 1, generator=generator)
    return displaced(photo, field) * gains


def soft(photo: Picture, generator: torch.Generator) -> Picture:
    """Blur by a Gaussian; edges are repeated."""
    reach = math.ceil(4 * BLUR)
    taps = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * BLUR**2))
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    padded = F.pad(photo[None], (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, taps, groups=3), taps.transpose(2, 3), groups=3)[0]


def invented(photo: Picture, generator: torch.Generator) -> Picture:
    """Replace blobs that make up a share of the picture by what it shows a quarter to three quarters of it away."""
    height, width = photo.shape[-2:]
    field = smooth_field(1, height, width, generator)[0]
    replaced = field >= field.flatten().kthvalue(math.ceil((1 - INVENTED) * field.numel())).values
    rows, columns = (0.25 + 0.5 * torch.rand(2, generator=generator)).tolist()
    elsewhere = photo.roll((round(rows * height), round(columns * width)), dims=(1, 2))
    return torch.where(replaced, elsewhere, photo)


def tinted(photo: Picture, generator: torch.Generator) -> Picture:
    """Shift all colours alike."""
    return photo + photo.new_tensor(TINT)[:, None, None]


FLAWS: dict[str, Flaw] = {
    "perfect": perfect,
    "misaligned by 0.8 px": partial(misaligned, rms=0.8),
    "misaligned by 1.6 px": partial(misaligned, rms=1.6),
    "soft": soft,
    "invented": invented,
    "tinted": tinted,
}


def smooth_field(channels: int, height: int, width: int, generator: torch.Generator) -> Float[Tensor, "c h w"]:
    """Draw normal values on a grid of `GRID` pixels, and interpolate them by cubics."""
    grid = torch.randn(1, channels, math.ceil(height / GRID) + 3, math.ceil(width / GRID) + 3, generator=generator)
    size = (grid.shape[2] - 1) * GRID + 1, (grid.shape[3] - 1) * GRID + 1
    whole = F.interpolate(grid, size=size, mode="bicubic", align_corners=True)[0]
    return whole[:, GRID : GRID + height, GRID : GRID + width].clone()


def displaced(photo: Picture, field: Float[Tensor, "2 h w"]) -> Picture:
    """Look each pixel up at its place plus ``field`` (x, y in pixels), bilinearly; edges are repeated."""
    return warp_by_flow(photo[None], field[None])[0]
