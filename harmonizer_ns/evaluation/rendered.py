# SPDX-License-Identifier: Apache-2.0
"""Views that a reconstruction has not seen are judged: rendered, enhanced, and compared with the photos."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.base import Context, Enhancer, Repaired
from harmonizer_ns.errors import InputError
from harmonizer_ns.progress import counted
from harmonizer_ns.splats.held_out import SparseFit, select_references
from harmonizer_ns.spread import evenly_spread
from harmonizer_ns.types import Frames
from harmonizer_ns.views import ENHANCED, PLAIN, JudgedView, Picture, view_of


@dataclass(frozen=True)
class FittedScene:
    """Gives the held-out photos of a reconstruction.

    Args:
        name: of the scene.
        fit: a reconstruction, and the photos that it has seen and not seen.
        most: how many views are judged, evenly spread; None: all.
        how: the pictures were made.
    """

    name: str
    fit: SparseFit
    most: int | None = None
    how: str = ""

    @property
    def positions(self) -> dict[str, Float[Tensor, "n 3"]]:
        """Where photos were taken from, those that were fitted and those that were not."""
        return self.fit.capture.positions

    def views(self, enhancer: Enhancer | None) -> Iterator[JudgedView]:
        """Render and enhance the held-out views, as `compare` does.

        Raises:
            InputError: when no photo is held out.
        """
        test = self.fit.capture.test
        if not test:
            raise InputError(f"{self.name} has no held-out photos, there is nothing to compare with")
        return compare(self.fit, enhancer, evenly_spread(test, self.most or len(test)))


def compare(fit: SparseFit, enhancer: Enhancer | None, views: Sequence[int]) -> Iterator[JudgedView]:
    """Render each view, and enhance it with the nearest fitted photos as references."""
    for index in counted(views, "views judged"):
        render = fit.renderer.render(fit.capture.cameras[index])
        pictures, seconds = {PLAIN: render.rgb[0]}, None
        if enhancer is not None:
            references = select_references(fit, render.cameras, enhancer.max_references, exclude=index)
            context = Context(references=(references,))
            pictures[ENHANCED], seconds = timed(lambda: enhancer.enhance(render, context), render)  # noqa: B023
        yield view_of(fit.capture, index, pictures, seconds)


def timed(enhance: Callable[[], Repaired], render: Frames) -> tuple[Picture, float]:
    """Enhance a render (a batch of one); the picture, checked, and the seconds that it took."""
    start = time.perf_counter()
    repaired = enhance()
    if repaired.rgb.is_cuda:
        torch.cuda.synchronize(repaired.rgb.device)
    seconds = time.perf_counter() - start
    return repaired.checked(render).rgb[0], seconds
