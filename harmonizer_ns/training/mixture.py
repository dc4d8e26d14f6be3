# SPDX-License-Identifier: Apache-2.0
"""Which item comes when: draws from several pairs files, mixed by weights.

A draw is a pure function of its number, so there is no state to save: a run that continues at number n sees what it
would have seen, whatever the numbers of processes and workers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from harmonizer_ns.errors import InputError

_BLOCK = 1024  # draws in which every source has its share


class Draw(NamedTuple):
    """One drawn item.

    Args:
        source: which file.
        index: which of its items.
        epoch: how often all items of that file were drawn before.
    """

    source: int
    index: int
    epoch: int


class MixtureSampler:
    """Draws from sources of different sizes, each with its share; within a source, every item once an epoch.

    In each block of 1,024 draws source ``s`` comes ``1024 w_s / sum(w)`` times (rounded, at least once where the
    weight is not 0), in random order.

    Args:
        sizes: number of items of each source; empty ones are left out.
        weights: relative shares. Empty: by size.
        seed: of all orders.

    Raises:
        InputError: when there is nothing to draw, or the weights do not fit the sources.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float] = (), seed: int = 0) -> None:
        shares = list(weights or sizes)
        if len(shares) != len(sizes):
            raise InputError(f"{len(shares)} weights {tuple(weights)} for {len(sizes)} pairs files; give one for each")
        if not all(0 <= share < float("inf") for share in shares):
            raise InputError(
                f"weights of pairs files are {tuple(shares)}; they should be positive, or 0 to leave one out"
            )
        shares = [share if size else 0 for size, share in zip(sizes, shares, strict=True)]
        if not any(shares):
            raise InputError(
                f"nothing to draw from: pairs files of {tuple(sizes)} items have the weights {tuple(weights)}"
            )
        self.sizes, self.seed = tuple(sizes), seed
        self.quotas = _quotas(shares)
        self._block = lru_cache(maxsize=4)(self._shuffled_block)
        self._order = lru_cache(maxsize=2 * len(sizes))(self._shuffled_items)

    def draw(self, number: int) -> Draw:
        """Draw number ``number``, counted from 0."""
        block, place = divmod(number, _BLOCK)
        source, before = self._block(block)[place]
        epoch, index = divmod(block * self.quotas[source] + before, self.sizes[source])
        return Draw(source, self._order(source, epoch)[index], epoch)

    def _shuffled_block(self, block: int) -> list[tuple[int, int]]:
        """For each place of a block its source, and how often that came before in the block."""
        sources = [source for source, quota in enumerate(self.quotas) for _ in range(quota)]
        random.Random(f"{self.seed}/block/{block}").shuffle(sources)
        seen, places = [0] * len(self.quotas), []
        for source in sources:
            places.append((source, seen[source]))
            seen[source] += 1
        return places

    def _shuffled_items(self, source: int, epoch: int) -> list[int]:
        order = list(range(self.sizes[source]))
        random.Random(f"{self.seed}/order/{source}/{epoch}").shuffle(order)
        return order

    def __getstate__(self) -> dict:
        """Without caches, which do not travel to worker processes."""
        return {"sizes": self.sizes, "seed": self.seed, "quotas": self.quotas}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["sizes"], state["quotas"], state["seed"])


def _quotas(shares: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers in proportion to the shares that add up to a block (largest remainders)."""
    wanted = [_BLOCK * share / sum(shares) for share in shares]
    quotas = [max(int(value), 1) if value else 0 for value in wanted]
    by_remainder = sorted(range(len(shares)), key=lambda i: quotas[i] - wanted[i])
    while sum(quotas) < _BLOCK:
        quotas[by_remainder.pop(0)] += 1
    while sum(quotas) > _BLOCK:  # many tiny shares were raised to one
        quotas[max(range(len(quotas)), key=quotas.__getitem__)] -= 1
    return tuple(quotas)


def shard(batch: int, size: int, rank: int = 0, processes: int = 1) -> range:
    """Numbers of the draws in batch number ``batch`` of one process.

    ``processes`` batches of ``size``, one from each process, hold the same draws as one batch of ``processes * size``.
    """
    first = (batch * processes + rank) * size
    return range(first, first + size)
