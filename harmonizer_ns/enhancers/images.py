# SPDX-License-Identifier: Apache-2.0
"""PIL images through any enhancer that needs no geometry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from harmonizer_ns.enhancers.base import Context, Enhancer
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import to_float, to_pillow
from harmonizer_ns.types import Frames, as_frames

if TYPE_CHECKING:
    from PIL.Image import Image


def repair_image(
    enhancer: Enhancer, image: Image | list[Image], ref_image: Image | list[Image | None] | None = None
) -> Image | list[Image]:
    """Repair PIL images, each by itself.

    Args:
        enhancer: repairs.
        image: one, or several, of any sizes.
        ref_image: a reference photo for all of them, or a list with one (or None) for each.

    Returns:
        An image for an image, a list for a list.

    Raises:
        InputError: when the enhancer cannot do without depth and cameras, when there are as many references as images
            in neither of the two ways, and when the enhancer looks at none.
    """
    images = image if isinstance(image, list) else [image]
    references = ref_image if isinstance(ref_image, list) else [ref_image] * len(images)
    _check(enhancer, len(images), references)
    photos = {id(reference): None if reference is None else _frames_of(reference) for reference in references}
    repaired = [
        to_pillow(enhancer.enhance(_frames_of(picture), Context((photos[id(reference)],))).rgb[0])
        for picture, reference in zip(images, references, strict=True)
    ]
    return repaired if isinstance(image, list) else repaired[0]


def _check(enhancer: Enhancer, count: int, references: list[Image | None]) -> None:
    if enhancer.needs_geometry:
        raise InputError(
            f"a {type(enhancer).__name__} warps photos by depth and cameras, which images do not have; "
            "use it inside a reconstruction, or give another enhancer here"
        )
    if len(references) != count:
        raise InputError(f"there are {len(references)} reference images for {count} images")
    if not enhancer.max_references and any(reference is not None for reference in references):
        raise InputError("this enhancer was not trained with references; a Difix loads with max_references=1 to try")


def _frames_of(image: Image) -> Frames:
    return as_frames(to_float(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)))
