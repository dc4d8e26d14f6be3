# SPDX-License-Identifier: Apache-2.0
"""Every measure by its name: how it is spelled and which way is better; one picture is measured against its truth here.

Sets of pictures are measured in `sets`, videos in `video`. A measure that cannot be taken is None, and
`Networks.missing` says why; no other one takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.evaluation.networks import Features, Networks
from harmonizer_ns.features import LpipsNet
from harmonizer_ns.metrics import SSIM_WINDOW, good_half_psnr, gradient_energy, psnr, ssim
from harmonizer_ns.views import PLAIN, JudgedView, Picture

LPIPS_LEAST = 31
"""Side in pixels of the smallest picture that all networks of LPIPS take."""
Better = Literal["higher", "lower", "one"]
"""Which values are better; "one" means the nearer to 1."""
Scores = dict[str, float | None]
"""Values by the names of `MEASURES`; None was not measured."""


@dataclass(frozen=True)
class Measure:
    """Describes one measure.

    Args:
        name: its key in reports.
        title: how tables call it.
        better: which values are better.
        unit: "" without one.
        digits: how many decimals mean something.
    """

    name: str
    title: str
    better: Better
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
        Measure("good_half_psnr", "PSNR of the good half", "higher", "dB", 2),
        Measure("good_half_change", "change in the good half", "higher", "dB", 2),
        Measure("fid", "FID", "lower", digits=2),
        Measure("kid", "KID", "lower", digits=4),
        Measure("warp_error", "warp error", "lower", "colour in [0, 1]", 4),
        Measure("flicker", "flicker", "lower", "colour in [0, 1]", 4),
        Measure("subject_consistency", "subject consistency", "higher", digits=4),
        Measure("background_consistency", "background consistency", "higher", digits=4),
        Measure("fvd", "FVD", "lower", digits=1),
    )
}


def measure(
    picture: Picture,
    truth: Picture,
    networks: Networks,
    plain: Picture | None = None,
    mask: Float[Tensor, "1 h w"] | None = None,
) -> Scores:
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
        "ssim": ssim(image, target, weight) if _is_large(target, SSIM_WINDOW, "ssim", networks) else None,
        **{f"lpips_{net}": _lpips(net, image, target, networks) for net in ("squeeze", "vgg", "alex")},
        "dino_structure": _distance(structure_distance(networks.structure()), image, target),
        "sharpness": sharpness(image, target),
    }
    if plain is not None:
        good = good_half_psnr(plain[None].to(image), image, target)
        found["good_half_change"] = good.after - good.before
    return {name: None if value is None else float(value) for name, value in found.items()}


def scores_of(view: JudgedView, networks: Networks) -> dict[str, Scores]:
    """Measure every picture of a view, by its role; the plain one tells which half was good."""
    plain, scores = view.pictures.get(PLAIN), {}
    for role, picture in view.pictures.items():
        scores[role] = measure(picture, view.truth, networks, plain, view.mask)
        if plain is not None:
            good = good_half_psnr(plain[None], picture[None], view.truth[None])
            scores[role]["good_half_psnr"] = good.after.item()
    return scores


def _is_large(image: Tensor, least: int, name: str, networks: Networks) -> bool:
    if min(image.shape[-2:]) >= least:
        return True
    networks.lacks(name, f"a picture has less than {least} pixels a side")
    return False


def _lpips(net: LpipsNet, image: Tensor, target: Tensor, networks: Networks) -> Tensor | None:
    is_large = _is_large(target, LPIPS_LEAST, f"lpips_{net}", networks)
    return _distance(networks.lpips(net), image, target) if is_large else None


def _distance(distance: Callable[[Tensor, Tensor], Tensor] | None, image: Tensor, target: Tensor) -> Tensor | None:
    with torch.no_grad():
        return None if distance is None else distance(image, target)


def sharpness(image: Float[Tensor, "1 3 h w"], target: Float[Tensor, "1 3 h w"]) -> Tensor | None:
    """Compare gradient energies, ``mean |grad x|^2 / mean |grad y|^2``: below 1 is blurred, above 1 noisy or ringing.

    None where the truth is flat.
    """
    wanted = gradient_energy(target)
    return gradient_energy(image) / wanted if wanted > 0 else None


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


def goodness(value: float, better: Better) -> float:
    """Turn a value so that more is better."""
    return {"higher": value, "lower": -value, "one": -abs(value - 1)}[better]


def means(rows: Sequence[Scores], all_of_them: bool = False) -> Scores:
    """Average each measure over the rows that have it.

    Args:
        rows: at least one.
        all_of_them: give None where one of them lacks it.
    """
    found: Scores = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [value for row in rows if (value := row.get(name)) is not None]
        found[name] = None if not values or (all_of_them and len(values) < len(rows)) else fmean(values)
    return found
