# SPDX-License-Identifier: Apache-2.0
"""A split rule says which photos of a capture train and which are judged."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.errors import InputError, check_limits

Rule = Literal["every", "spread", "side", "clusters", "names"]


class TooFewPhotosError(InputError):
    """A capture is too small to be split like this; other captures may do."""


class Sides(NamedTuple):
    """Holds the indices of the photos that train and of those that are judged, both ascending."""

    train: tuple[int, ...]
    judged: tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """Says how a protocol splits its captures; photos count in their natural order."""

    rule: Rule
    """"every": each ``train``-th photo trains. "spread": ``train`` photos in all do, evenly spread. "side": the half
    of the cameras on one side of where they lie apart most. "clusters": those near the first of two centres.
    "names": those whose names the pattern is not found in. All others are judged."""
    train: int = 0
    """The number that "every" and "spread" want."""
    judged_every: int = 0
    """With "spread", each so-manieth photo is judged and the others may train; 0: what does not train is judged."""
    pattern: str = ""
    """With "names", the regular expression that is found in the names of judged photos."""
    own: bool = False
    """A capture that says itself which photos are held out keeps its split."""

    def __post_init__(self) -> None:
        least = 2 if self.rule in ("every", "spread") else 0
        check_limits(self, judged_every=(0, math.inf), train=(least, math.inf))
        if self.judged_every == 1:
            raise InputError("judged_every should be 0 or at least 2: with 1 all photos are judged, and none trains")
        if (self.rule == "names") != bool(self.pattern):
            raise InputError(f"the rule 'names' needs a pattern, others have none; got {self.rule}, {self.pattern!r}")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise InputError(f"the pattern {self.pattern!r} is no regular expression: {error}") from error

    def of(self, capture: Capture) -> Sides:
        """Split a capture.

        Raises:
            TooFewPhotosError: saying how many photos it needs, when fewer train than should, or none is judged.
        """
        sides = Sides(capture.train, capture.test) if self.keeps(capture) else RULES[self.rule](self, capture)
        if not sides.judged or len(sides.train) < (self.train if self.rule == "spread" else 1):
            wanted = f"with and without {self.pattern!r} in their names" if self.pattern else f"{self.least} or more"
            raise TooFewPhotosError(
                f"{capture.name}: the rule {self.rule!r} needs photos, {wanted}; of its {len(capture)} "
                f"{len(sides.train)} would train and {len(sides.judged)} be judged"
            )
        return sides

    @property
    def least(self) -> int:
        """So many photos are enough, where names do not decide: for "spread" ``train`` and those that are judged."""
        if self.rule != "spread":
            return 2
        every = self.judged_every
        return math.ceil(self.train * every / (every - 1)) if every else self.train + 1

    def keeps(self, capture: Capture) -> bool:
        """Tell whether a capture keeps the split that it came with."""
        return self.own and bool(capture.test)


def _every(split: Split, capture: Capture) -> Sides:
    return _sides(len(capture), range(0, len(capture), split.train))


def _spread(split: Split, capture: Capture) -> Sides:
    """As Mip-NeRF 360's sparse variants: the whole parts of ``linspace`` over the photos that may train."""
    judged = range(0, len(capture), split.judged_every) if split.judged_every else ()
    pool = [i for i in range(len(capture)) if i not in judged]
    train = sorted({pool[k] for k in np.linspace(0, len(pool) - 1, split.train, dtype=int)}) if pool else []
    return Sides(tuple(train), tuple(judged)) if judged else _sides(len(capture), train)


def _side(split: Split, capture: Capture) -> Sides:
    centers = _centers(capture)
    order = torch.argsort(_along(centers), stable=True).tolist()
    first = set(order[: len(order) // 2])
    return _sides(len(capture), first if 0 in first else set(order) - first)


def _clusters(split: Split, capture: Capture) -> Sides:
    """Cut the camera positions into two clusters by Lloyd's algorithm, begun at both ends of their longest axis."""
    from scipy.cluster.vq import kmeans2

    centers = _centers(capture)
    along = _along(centers)
    ends = centers[[int(along.argmin()), int(along.argmax())]]
    _, near = kmeans2(centers.numpy(), ends.numpy(), iter=100, minit="matrix")
    return _sides(len(capture), [i for i, cluster in enumerate(near) if cluster == near[0]])


def _names(split: Split, capture: Capture) -> Sides:
    judged = [i for i, name in enumerate(capture.names) if re.search(split.pattern, Path(name).name)]
    return _sides(len(capture), set(range(len(capture))) - set(judged))


RULES: dict[Rule, Callable[[Split, Capture], Sides]] = {
    "every": _every,
    "spread": _spread,
    "side": _side,
    "clusters": _clusters,
    "names": _names,
}


def _sides(count: int, train: Sequence[int] | set[int] | range) -> Sides:
    """Split so many photos into some that train, and all others."""
    chosen = set(train)
    return Sides(tuple(sorted(chosen)), tuple(i for i in range(count) if i not in chosen))


def _centers(capture: Capture) -> Float[Tensor, "n 3"]:
    return torch.cat([camera.centers for camera in capture.cameras]).double()


def _along(centers: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Say how far positions lie along the direction in which they lie apart most."""
    offsets = centers - centers.mean(0)
    return offsets @ torch.linalg.svd(offsets, full_matrices=False).Vh[0]
