# SPDX-License-Identifier: Apache-2.0
"""Two sets of pictures are compared as distributions of features: FID and KID, computed by torchmetrics."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harmonizer_ns.evaluation.networks import Networks
from harmonizer_ns.evaluation.quality import Scores
from harmonizer_ns.images import to_uint8
from harmonizer_ns.views import Picture

KID_SUBSET, KID_SUBSETS = 1000, 100
"""Pictures in a subset of KID and how many subsets are drawn; up to that many pictures make one subset, the set."""
UNBIASED_FROM = 2048
"""Below this many pictures FID's covariances are singular, and it can only be compared at one number of pictures."""


class PictureSets:
    """Holds the features of sets of pictures, by the sets' names, as the pictures come.

    Args:
        networks: give the Inception network; without it nothing is held.
    """

    def __init__(self, networks: Networks) -> None:
        self._network, self._networks = networks.inception(), networks
        self._features: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def add(self, name: str, picture: Picture) -> None:
        """Add a picture to the set of that name."""
        if self._network is not None:
            pixels = to_uint8(picture[None]).to(self._networks.device)
            self._features.setdefault(name, []).append(self._network(pixels).cpu())

    def distances(self, name: str, truth: str = "truth") -> Scores:
        """Measure a set against the truth's; `set_distances`, or None without the network."""
        if self._network is None:
            return {"fid": None, "kid": None}
        return set_distances(torch.cat(self._features[name]), torch.cat(self._features[truth]))

    def recipe(self) -> str:
        """Say how FID and KID were computed, and of how many pictures."""
        if self._network is None:
            return self._networks.missing["inception"]
        count = min(map(len, self._features.values()), default=0)
        caution = "" if count >= UNBIASED_FROM else f"; below {UNBIASED_FROM} FID is biased: compare equal numbers only"
        return f"{self._networks.recipes['inception']}; {count} pictures{caution}"


def set_distances(pictures: Float[Tensor, "n c"], truths: Float[Tensor, "m c"], subset: int = KID_SUBSET) -> Scores:
    """Compute FID (Heusel et al. 2017, equation 6) and KID (Binkowski et al. 2018, cubic kernel) of features.

    None of less than two pictures.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    count = min(len(pictures), len(truths))
    if count < 2:
        return {"fid": None, "kid": None}
    features = _Given(pictures.shape[1])
    fid = FrechetInceptionDistance(feature=features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it will hold the features, which are held here already
        kid = KernelInceptionDistance(
            feature=features, subsets=1 if count <= subset else KID_SUBSETS, subset_size=min(count, subset)
        )
    for metric in (fid, kid):
        metric.update(truths, real=True)
        metric.update(pictures, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mean, _ = kid.compute()
    return {"fid": fid.compute().item(), "kid": mean.item()}


class _Given(nn.Module):
    """Stands where torchmetrics expects a network: it is given features, and passes them on.

    Early versions show it a picture, to see how many features there are.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features if features.ndim == 2 else torch.zeros(len(features), self.num_features)
