# SPDX-License-Identifier: Apache-2.0
"""Figures of a validation: PSNR, SSIM and, when its weights are there, LPIPS, before and after."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.metrics import psnr, ssim
from harmonizer_ns.training.trainee import Pictures, Validation

Distance = Callable[[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"]], Float[Tensor, ""]]
"""LPIPS of images in [0, 1]."""


def validated(pictures: list[Pictures], distance: Distance | None) -> Validation:
    """Means over the views of each metric: ``psnr``, ``psnr_input`` and so on; empty without views."""
    metrics = {"psnr": psnr, "ssim": ssim, **({"lpips": distance} if distance else {})}
    found: dict[str, float] = {}
    for view in pictures:
        for name, metric in metrics.items():
            for suffix, image in (("", view.output), ("_input", view.render)):
                value = metric(image[None].clamp(0, 1), view.target[None]).mean().item() / len(pictures)
                found[name + suffix] = found.get(name + suffix, 0.0) + value
    return Validation(found, pictures)
