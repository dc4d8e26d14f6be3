# SPDX-License-Identifier: Apache-2.0
"""Fewer are taken of many, evenly spread: views to look at, photos to fit, points to measure from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

T = TypeVar("T")


def evenly_spread(items: Sequence[T], most: int, ends: bool = False) -> list[T]:
    """Take at most so many of the items, evenly spread over their order.

    Args:
        items: in order.
        most: how many; all items are kept where there are no more.
        ends: keep the first and the last item; otherwise each kept item stands in the middle of its share.
    """
    count = len(items)
    if count <= most:
        return list(items)
    if ends and most > 1:
        return [items[round(i * (count - 1) / (most - 1))] for i in range(most)]
    return [items[(2 * i + 1) * count // (2 * most)] for i in range(most)]


def thin(points: Float[Tensor, "p 3"], most: int) -> Float[Tensor, "q 3"]:
    """Take every n-th point, so that at most ``most`` are left."""
    return points[:: max(1, -(-len(points) // most))]
