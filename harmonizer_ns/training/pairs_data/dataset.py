# SPDX-License-Identifier: Apache-2.0
"""This module draws training items out of pairs: cropped views, or clips of consecutive frames, in batches.

A draw is a pure function of its number, and all that is random about an item comes from a generator seeded by (seed,
source, index, epoch). So there is no state to save: a run that continues at number n sees what it would have seen,
whatever the numbers of processes and workers.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import image_size
from harmonizer_ns.pairs import Pair
from harmonizer_ns.training.config import DataConfig
from harmonizer_ns.training.pairs_data.batch import PairBatch, collate, load_view
from harmonizer_ns.training.pairs_data.checks import clips
from harmonizer_ns.training.pairs_data.crops import centre_window, random_window

Item = tuple[Pair, ...]
"""One pair, or the consecutive frames of a clip."""
FIXING = frozenset({"sparse", "underfit", "cycle", "cross_reference"})
"""The streams whose damage is what new views of a reconstruction lack."""


def items_of(pairs: Sequence[Pair], frames: int | None) -> list[Item]:
    """List every pair by itself, or every run of ``frames`` frames of a clip whose numbers follow each other."""
    if frames is None:
        return [(pair,) for pair in pairs]
    runs = [
        tuple(clip[start : start + frames]) for clip in clips(pairs).values() for start in range(len(clip) - frames + 1)
    ]
    return [run for run in runs if run[-1].frame - run[0].frame == frames - 1]  # type: ignore[operator]


def load_item(item: Item, data: DataConfig, clip: bool = False, chance: random.Random | None = None) -> PairBatch:
    """Load one item as a batch of one; all its frames are cropped alike.

    Args:
        item: what to load.
        data: the crop, and how many photos each frame has.
        clip: keep the dimension of the frames.
        chance: draws the crop; None takes the largest one, in the middle.
    """
    width, height = image_size(item[0].image)
    if chance is None:
        window, seed = centre_window(height, width, (data.height, data.width)), 0
    else:
        flip = data.flip and not any(pair.cameras for pair in item)
        window, seed = random_window(height, width, data, flip, chance), chance.getrandbits(63)
    frames = collate([load_view(pair, window, data.references) for pair in item])
    return replace(frames.as_clip() if clip else frames, seeds=(seed,))


_BLOCK = 1024  # draws in which every source has its share


class Draw(NamedTuple):
    """Names one drawn item.

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

    def draw(self, number: int) -> Draw:
        """Make draw number ``number``, counted from 0."""
        block, place = divmod(number, _BLOCK)
        source, before = _shuffled_block(self.quotas, self.seed, block)[place]
        epoch, index = divmod(block * self.quotas[source] + before, self.sizes[source])
        return Draw(source, _shuffled_items(self.sizes[source], self.seed, source, epoch)[index], epoch)


@lru_cache(maxsize=4)
def _shuffled_block(quotas: tuple[int, ...], seed: int, block: int) -> list[tuple[int, int]]:
    """Give for each place of a block its source, and how often that came before in the block."""
    sources = [source for source, quota in enumerate(quotas) for _ in range(quota)]
    random.Random(f"{seed}/block/{block}").shuffle(sources)
    seen, places = [0] * len(quotas), []
    for source in sources:
        places.append((source, seen[source]))
        seen[source] += 1
    return places


@lru_cache(maxsize=64)
def _shuffled_items(size: int, seed: int, source: int, epoch: int) -> list[int]:
    order = list(range(size))
    random.Random(f"{seed}/order/{source}/{epoch}").shuffle(order)
    return order


def _quotas(shares: Sequence[float]) -> tuple[int, ...]:
    """Find whole numbers in proportion to the shares that add up to a block (largest remainders)."""
    wanted = [_BLOCK * share / sum(shares) for share in shares]
    quotas = [max(int(value), 1) if value else 0 for value in wanted]
    by_remainder = sorted(range(len(shares)), key=lambda i: quotas[i] - wanted[i])
    while sum(quotas) < _BLOCK:
        quotas[by_remainder.pop(0)] += 1
    while sum(quotas) > _BLOCK:  # many tiny shares were raised to one
        quotas[max(range(len(quotas)), key=quotas.__getitem__)] -= 1
    return tuple(quotas)


def _apart(files: list[list[Item]], shares: Sequence[float], fixing: float) -> tuple[list[list[Item]], list[float]]:
    """Part each file's items in those of `FIXING` and the others, and its share: the former count ``fixing`` times."""
    parts, parted = [], []
    for items, share in zip(files, shares, strict=True):
        chosen = [item for item in items if item[0].stream in FIXING]
        others = [item for item in items if item[0].stream not in FIXING]
        whole = fixing * len(chosen) + len(others)
        parts += [chosen, others]
        parted += [share * part / whole if part else 0.0 for part in (fixing * len(chosen), len(others))]
    return parts, parted


def shard(batch: int, size: int, rank: int = 0, processes: int = 1) -> range:
    """Number the draws in batch number ``batch`` of one process.

    ``processes`` batches of ``size``, one from each process, hold the same draws as one batch of ``processes * size``.
    """
    first = (batch * processes + rank) * size
    return range(first, first + size)


class PairDataset:
    """Draws training items from several pairs files without end; ``dataset[number]``, ``dataset.batch(numbers)``.

    Args:
        files: the pairs to train on, of each file.
        data: the crops, and how often each file is drawn from.
        frames: length of clips; None gives single views.
        seed: of everything random.

    Raises:
        InputError: when there is nothing to draw, such as no clip that is long enough.
    """

    def __init__(
        self, files: Sequence[Sequence[Pair]], data: DataConfig, frames: int | None = None, seed: int = 0
    ) -> None:
        self.items = [items_of(file, frames) for file in files]
        if frames is not None and not any(self.items):
            raise InputError(
                f"no pairs file has a clip of {frames} consecutive frames; temporal training needs them "
                '("clip" and "frame" of every pair), or set --temporal.context 0'
            )
        self.data, self.clip, self.seed = data, frames is not None, seed
        self.sampler = MixtureSampler([len(items) for items in self.items], data.weights, seed)
        if data.fixing != 1:
            self.items, shares = _apart(self.items, data.weights or self.sampler.sizes, data.fixing)
            self.sampler = MixtureSampler([len(items) for items in self.items], shares, seed)

    def __getitem__(self, number: int) -> PairBatch:
        """Load draw number ``number``, as a batch of one."""
        source, index, epoch = self.sampler.draw(number)
        item = self.items[source][index]
        chance = random.Random(f"{self.seed}/{source}/{index}/{epoch}")
        return load_item(item, self.data, self.clip, chance)

    def batch(self, numbers: Iterable[int]) -> PairBatch:
        """Load several draws (`shard` gives those of a process)."""
        return collate([self[number] for number in numbers])

    def fingerprint(self) -> str:
        """Digest what is drawn, wherever the files are."""
        names = [[[pair.name for pair in item] for item in items] for items in self.items]
        crop = [self.data.height, self.data.width, self.data.zoom, self.data.flip]
        content = [names, crop, self.data.references, self.clip, self.sampler.quotas, self.seed]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
