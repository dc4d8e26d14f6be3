# SPDX-License-Identifier: Apache-2.0
"""A reconstruction is fitted to some photos of a capture here, and looked at from where the others were taken."""

from __future__ import annotations

from dataclasses import dataclass

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.references import ReferenceSelector
from harmonizer_ns.types import Cameras, Frames, Reconstructor, Renderer


@dataclass(frozen=True)
class Split:
    """A split says which photos of a capture are fitted and which are kept for comparison (indices)."""

    train: tuple[int, ...]
    held_out: tuple[int, ...]


@dataclass(frozen=True)
class SparseFit:
    """A reconstruction from some photos of a capture.

    Args:
        capture: all photos.
        split: which of them were fitted.
        renderer: the fitted reconstruction.
    """

    capture: Capture
    split: Split
    renderer: Renderer


def every_nth(count: int, every: int, offset: int = 0) -> Split:
    """Fit photos ``offset, offset + every, ...`` of ``count``; ``every=1`` fits all.

    Raises:
        ValueError: when the numbers leave nothing to fit.
    """
    if every < 1 or not 0 <= offset < min(every, count):
        raise ValueError(f"need every >= 1 and 0 <= offset < min(every, count), got {every}, {offset}, {count}")
    train = tuple(range(offset, count, every))
    return Split(train, tuple(i for i in range(count) if i not in set(train)))


def fit_sparse(
    capture: Capture, split: Split, reconstructor: Reconstructor, photos: list[Frames] | None = None
) -> SparseFit:
    """Fit the training photos of the split, or what is given in their place, from the capture's seed points."""
    photos = photos or [capture.frames(i) for i in split.train]
    return SparseFit(capture, split, reconstructor.fit(photos, capture.points, capture.colors))


def select_references(fit: SparseFit, view: Cameras, count: int, exclude: tuple[int, ...] = ()) -> Frames | None:
    """Find the frames of `named_references`."""
    found = named_references(fit, view, count, exclude)
    return None if found is None else found[1]


def named_references(
    fit: SparseFit, view: Cameras, count: int, exclude: tuple[int, ...] = ()
) -> tuple[list[str], Frames] | None:
    """Find the fitted photos that show most of what a view shows, best first, with rendered depth; None without any.

    Args:
        fit: where the photos and their depth come from.
        view: a batch of one.
        count: how many at most.
        exclude: capture indices that may not be chosen, such as the view's own photo.

    Returns:
        file names as in the capture, and the photos.
    """
    others = [i for i in fit.split.train if i not in exclude]
    if not others or count < 1:
        return None
    selector = ReferenceSelector(fit.capture, count, others)
    chosen = selector.nearest(view)
    return [fit.capture.names[i] for i in chosen], selector.shown(chosen, view, fit.renderer)
