# SPDX-License-Identifier: Apache-2.0
"""A reconstruction is fitted to some photos of a capture here, and looked at from where the others were taken."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.references import ReferenceSelector
from harmonizer_ns.types import Cameras, Frames, Reconstructor, Renderer


@dataclass(frozen=True)
class SparseFit:
    """A reconstruction from some photos of a capture.

    Args:
        capture: all photos; those of ``train`` were fitted, those of ``test`` were not.
        renderer: the fitted reconstruction.
    """

    capture: Capture
    renderer: Renderer


def split_capture(capture: Capture, fitted: Collection[int]) -> Capture:
    """Split a capture into the photos to fit (indices) and the others, which are kept for comparison."""
    return replace(capture, train=tuple(fitted), test=tuple(i for i in range(len(capture)) if i not in fitted))


def fit_sparse(capture: Capture, reconstructor: Reconstructor, photos: list[Frames] | None = None) -> SparseFit:
    """Fit the training photos of the capture, or what is given in their place, from the capture's seed points."""
    photos = photos or [capture.frames(i) for i in capture.train]
    return SparseFit(capture, reconstructor.fit(photos, capture.points, capture.colors))


def select_references(fit: SparseFit, view: Cameras, count: int, exclude: int | None = None) -> Frames | None:
    """Find the frames of `named_references`."""
    found = named_references(fit, view, count, exclude)
    return None if found is None else found[1]


def named_references(
    fit: SparseFit, view: Cameras, count: int, exclude: int | None = None
) -> tuple[list[str], Frames] | None:
    """Find the fitted photos that show most of what a view shows, best first, with rendered depth; None without any.

    Args:
        fit: where the photos and their depth come from.
        view: a batch of one.
        count: how many at most.
        exclude: index of a photo that may not be chosen, such as the view's own.

    Returns:
        file names as in the capture, and the photos.
    """
    others = [i for i in fit.capture.train if i != exclude]
    if not others or count < 1:
        return None
    selector = ReferenceSelector(fit.capture, count, others)
    chosen = selector.nearest(view)
    return [fit.capture.names[i] for i in chosen], selector.shown(chosen, view, fit.renderer)
