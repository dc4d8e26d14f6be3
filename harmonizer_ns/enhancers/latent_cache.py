# SPDX-License-Identifier: Apache-2.0
"""Latents of images that are shown again and again: previous outputs, reference photos."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class LatentCache:
    """Keeps the latents of images for as long as somebody keeps the images themselves.

    An image that was changed in place is encoded again, unless it was made in inference mode, as enhancers' outputs
    are: torch does not count changes there.
    """

    def __init__(self) -> None:
        self._kept = WeakTensorKeyDictionary()

    def of(self, images: Tensor, how: Hashable, encode: Callable[[], Tensor]) -> Tensor:
        """The latents of images.

        Args:
            images: the very tensor that will be shown again.
            how: whatever the latents depend on besides.
            encode: computes them.
        """
        stamp = (how, None if images.is_inference() else images._version)
        found = self._kept.get(images)
        if found is None or found[0] != stamp:
            found = self._kept[images] = stamp, encode().clone()  # a CUDA graph would write over its own output
        return found[1]

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
