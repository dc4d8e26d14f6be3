# SPDX-License-Identifier: Apache-2.0
"""Motion tells where things of one photo are in the next: DIS optical flow (Kroeger et al. 2016), both ways."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num, UInt8
from torch import Tensor

from harmonizer_ns.flow import dis_offsets
from harmonizer_ns.images import resize, to_uint8

_ROUND_TRIP = 0.008
_WIDTH = 320  # OpenCV's segmentation takes time in proportion to the pixels; edges are sharp enough at this width


def small_images(frames: Float[Tensor, "n 3 h w"]) -> list[UInt8[np.ndarray, "a b 3"]]:
    """Give frames to OpenCV, at most 320 pixels wide."""
    height, width = frames.shape[-2:]
    small_width = min(width, _WIDTH)
    small = to_uint8(resize(frames, max(1, round(height * small_width / width)), small_width))
    return [np.ascontiguousarray(image) for image in small.permute(0, 2, 3, 1).cpu().numpy()]


@dataclass(frozen=True)
class Motion:
    """A motion says where each pixel of a frame was in the frame before.

    Args:
        xs, ys: in pixels; the centre of the top-left pixel is (0, 0) here, as OpenCV has it.
        sure: where flow there and back returns within 0.8% of the width.
    """

    xs: Float[np.ndarray, "h w"]
    ys: Float[np.ndarray, "h w"]
    sure: Bool[np.ndarray, "h w"]

    @classmethod
    def between(cls, before: UInt8[np.ndarray, "h w 3"], image: UInt8[np.ndarray, "h w 3"]) -> Motion:
        """Estimate the motion from one image to the next."""
        import cv2

        back, forth = dis_offsets(image, before)
        ys, xs = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
        xs, ys = xs + back[..., 0], ys + back[..., 1]
        away = (1e6, 1e6, 1e6, 1e6)
        there = cv2.remap(forth, xs, ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=away)
        return cls(xs, ys, np.linalg.norm(back + there, axis=2) < _ROUND_TRIP * image.shape[1])

    def move(self, labels: Num[np.ndarray, "h w"]) -> Num[np.ndarray, "h w"]:
        """Move the labels of the frame before to this frame; 0 where what is seen was outside."""
        import cv2

        return cv2.remap(labels, self.xs, self.ys, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
