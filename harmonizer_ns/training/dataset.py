# SPDX-License-Identifier: Apache-2.0
"""Training items out of pairs: cropped views, or clips of consecutive frames, stacked to batches.

All that is random about an item comes from a generator seeded by (seed, source, index, epoch): it is the same whichever
process or worker loads it, and in a continued run.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import image_size
from harmonizer_ns.pairs import Pair
from harmonizer_ns.training.batch import PairBatch, as_clip, collate
from harmonizer_ns.training.crops import CropConfig, centre_window, random_window
from harmonizer_ns.training.mixture import MixtureSampler
from harmonizer_ns.training.pairs import clips
from harmonizer_ns.training.views import load_view

Item = tuple[Pair, ...]
"""One pair, or the consecutive frames of a clip."""


def items_of(pairs: Sequence[Pair], frames: int | None) -> list[Item]:
    """Every pair by itself, or every run of ``frames`` frames of a clip whose numbers follow each other."""
    if frames is None:
        return [(pair,) for pair in pairs]
    runs = [
        tuple(clip[start : start + frames]) for clip in clips(pairs).values() for start in range(len(clip) - frames + 1)
    ]
    return [run for run in runs if run[-1].frame - run[0].frame == frames - 1]  # type: ignore[operator]


def load_item(
    item: Item, crop: CropConfig, references: int = 0, clip: bool = False, chance: random.Random | None = None
) -> PairBatch:
    """Load one item as a batch of one; all its frames are cropped alike.

    Args:
        item: what to load.
        crop: size, and how it varies.
        references: photos of each frame.
        clip: keep the dimension of the frames.
        chance: draws the crop; None takes the largest one, in the middle.
    """
    width, height = image_size(item[0].image)
    flip = crop.flip and not any(pair.cameras for pair in item)
    window = centre_window(height, width, crop) if chance is None else random_window(height, width, crop, flip, chance)
    frames = collate([load_view(pair, window, references) for pair in item])
    seed = chance.getrandbits(63) if chance else 0
    return replace(as_clip(frames) if clip else frames, seeds=(seed,))


class PairDataset:
    """An endless sequence of training items from several pairs files; ``dataset[number]``, ``dataset.batch(numbers)``.

    Args:
        files: the pairs to train on, of each file.
        crop: size of the items, and how they vary.
        references: photos of each item.
        frames: length of clips; None gives single views.
        weights: how often each file is drawn from; empty: by its number of items.
        seed: of everything random.

    Raises:
        InputError: when there is nothing to draw, such as no clip that is long enough.
    """

    def __init__(
        self,
        files: Sequence[Sequence[Pair]],
        crop: CropConfig,
        references: int = 0,
        frames: int | None = None,
        weights: Sequence[float] = (),
        seed: int = 0,
    ) -> None:
        self.items = [items_of(file, frames) for file in files]
        if frames is not None and not any(self.items):
            raise InputError(
                f"no pairs file has a clip of {frames} consecutive frames; temporal training needs them "
                '("clip" and "frame" of every pair), or set --temporal.context 0'
            )
        self.crop, self.references, self.clip, self.seed = crop, references, frames is not None, seed
        self.sampler = MixtureSampler([len(items) for items in self.items], weights, seed)

    def __getitem__(self, number: int) -> PairBatch:
        """Draw number ``number``, as a batch of one."""
        source, index, epoch = self.sampler.draw(number)
        item = self.items[source][index]
        chance = random.Random(f"{self.seed}/{source}/{index}/{epoch}")
        return load_item(item, self.crop, self.references, self.clip, chance)

    def batch(self, numbers: Iterable[int]) -> PairBatch:
        """Several draws (`mixture.shard` gives those of a process)."""
        return collate([self[number] for number in numbers])

    def fingerprint(self) -> str:
        """Changes when other things are drawn, but not when the files move."""
        names = [[[pair.name for pair in item] for item in items] for items in self.items]
        crop = [self.crop.height, self.crop.width, self.crop.zoom, self.crop.flip]
        content = [names, crop, self.references, self.clip, self.sampler.quotas, self.seed]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
