# SPDX-License-Identifier: Apache-2.0
"""Every measure by its name: how it is spelled, which way is better, and how one picture is measured against its truth.

A measure that cannot be taken is None, and `Networks.missing` says why; no other one takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.evaluation.networks import Features, Networks
from harmonizer_ns.metrics import SSIM_WINDOW, good_half_psnr, psnr, ssim

Picture = Float[Tensor, "3 h w"]
"""Colours in [0, 1]."""


@dataclass(frozen=True)
class Measure:
    """Describes one measure.

    Args:
        name: its key in reports.
        title: how tables call it.
        better: which values are better; "one" means the nearer to 1.
        unit: "" without one.
        digits: how many decimals mean something.
    """

    name: str
    title: str
    better: Literal["higher", "lower", "one"]
    unit: str = ""
    digits: int = 3


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("psnr", "PSNR", "higher", "dB", 2),
        Measure("ssim", "SSIM", "higher"),
        Measure("lpips_squeeze", "LPIPS-squeeze", "lower"),
        Measure("lpips_vgg", "LPIPS-vgg", "lower"),
        Measure("lpips_alex", "LPIPS-alex", "lower"),
        Measure("dino_structure", "DINO structure distance", "lower", digits=4),
        Measure("sharpness", "sharpness", "one", "gradient energy / the truth's", 2),
        Measure("good_half_change", "change in the good half", "higher", "dB", 2),
    )
}


def measure(
    picture: Picture,
    truth: Picture,
    networks: Networks,
    plain: Picture | None = None,
    mask: Float[Tensor, "1 h w"] | None = None,
) -> dict[str, float | None]:
    """Measure a picture against its truth.

    Args:
        picture: what is judged.
        truth: what it should look like, of the same size.
        networks: those that there are; a measure whose network is missing is None.
        plain: the picture before it was enhanced; without it, ``good_half_change`` is left out.
        mask: weights in [0, 1] of the pixels that PSNR and SSIM count; None counts all.

    Returns:
        values by the names of `MEASURES`.

    Raises:
        ValueError: when the sizes differ.
    """
    image, target = picture[None], truth[None].to(picture.device)
    weight = None if mask is None else mask[None].to(image)
    found = {
        "psnr": psnr(image, target, weight),
        "ssim": ssim(image, target, weight) if min(target.shape[-2:]) >= SSIM_WINDOW else None,
        **{f"lpips_{net}": _distance(networks.lpips(net), image, target) for net in ("squeeze", "vgg", "alex")},
        "dino_structure": _distance(structure_distance(networks.structure()), image, target),
        "sharpness": sharpness(image, target),
    }
    if plain is not None:
        good = good_half_psnr(plain[None].to(image), image, target)
        found["good_half_change"] = good.after - good.before
    return {name: None if value is None else float(value) for name, value in found.items()}


def _distance(distance: Callable[[Tensor, Tensor], Tensor] | None, image: Tensor, target: Tensor) -> Tensor | None:
    with torch.no_grad():
        return None if distance is None else distance(image, target)


def sharpness(image: Float[Tensor, "1 3 h w"], target: Float[Tensor, "1 3 h w"]) -> Tensor | None:
    """Compare gradient energies, ``mean |grad x|^2 / mean |grad y|^2``: below 1 is blurred, above 1 noisy or ringing.

    None where the truth is flat.
    """
    wanted = gradient_energy(target)
    return gradient_energy(image) / wanted if wanted > 0 else None


def gradient_energy(image: Float[Tensor, "1 3 h w"]) -> Float[Tensor, ""]:
    """Average the squared differences of neighbouring pixels, along rows and along columns."""
    return image.diff(dim=-1).square().mean() + image.diff(dim=-2).square().mean()


def structure_distance(keys: Features | None) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Make the structure distance of Splice (Tumanyan et al. 2022, equations 2 and 4) of DINO's keys.

    ``mean_ij (S(x)_ij - S(y)_ij)^2`` with ``S_ij = cos(k_i, k_j)`` over all tokens of a picture.
    """
    if keys is None:
        return None

    def similarity(image: Tensor) -> Tensor:
        unit = F.normalize(keys(image), dim=-1)
        return unit @ unit.transpose(1, 2)

    return lambda image, target: (similarity(image) - similarity(target)).square().mean(dim=(1, 2))
