# SPDX-License-Identifier: Apache-2.0
"""This module gives the built-in network its data: views of pairs files, warped when first seen, and crops of them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from harmonizer_ns.enhancers.builtin.network import MULTIPLE
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import file_digest
from harmonizer_ns.images import image_size
from harmonizer_ns.pairs import Pair
from harmonizer_ns.spread import evenly_spread
from harmonizer_ns.training.builtin.augment import random_crop
from harmonizer_ns.training.builtin.config import BuiltinConfig
from harmonizer_ns.training.builtin.views import Batch, WarpedView, collate, warp_view
from harmonizer_ns.training.pairs_data.dataset import MixtureSampler, shard
from harmonizer_ns.training.pairs_data.draws import read_splits


class Views:
    """Warps views of pairs files. The first ones asked for are kept while there is room; others are warped each time.

    Args:
        files: pairs of each file.
        room: bytes of memory for views that are kept.
    """

    def __init__(self, files: Iterable[Iterable[Pair]], room: float) -> None:
        self._frames = [{(pair.clip, pair.frame): pair for pair in file} for file in files]
        self._room = room
        self._kept: dict[tuple[Path, Path], WarpedView] = {}

    def of(self, source: int, pair: Pair) -> WarpedView:
        """Give the warped view of a pair of file number ``source``."""
        key = (pair.image, pair.target_image)
        if key in self._kept:
            return self._kept[key]
        view = warp_view(pair, self._neighbour(source, pair))
        if view.nbytes <= self._room:
            self._kept[key] = view
            self._room -= view.nbytes
        return view

    def _neighbour(self, source: int, pair: Pair) -> Pair | None:
        """Find the frame before, or the one after the first of a clip."""
        if pair.clip is None or pair.frame is None:
            return None
        frames = self._frames[source]
        return frames.get((pair.clip, pair.frame - 1)) or frames.get((pair.clip, pair.frame + 1))


class BuiltinData:
    """Draws random crops for one process, and holds the views that are held out; see `trainee.Data`.

    Args:
        config: of the run.
        rank: number of the process.
        processes: how many there are.

    Raises:
        InputError: naming everything that is wrong with pairs files and the images that they name, and when nothing is
            left to train on, to validate on, or to warp.
    """

    def __init__(self, config: BuiltinConfig, rank: int = 0, processes: int = 1) -> None:
        self._training, self._held_out = read_splits(config)
        self._config, self._rank, self._processes = config, rank, processes
        self._data = config.data.fitted(MULTIPLE)
        self._check()
        self._views = Views(map(chain, self._training, self._held_out), config.cache * 1e9)
        self._sampler = MixtureSampler([len(pairs) for pairs in self._training], self._data.weights, config.seed)

    def _check(self) -> None:
        training = [pair for pairs in self._training for pair in pairs]
        if not training:
            raise InputError("nothing is left to train on: every scene is held out")
        if not any(pair.has_geometry for pair in training):
            raise InputError('the built-in network warps photos: no pair to train on has "depth" and "cameras"')
        if not any(self._held_out):
            raise InputError(
                "no pair is held out, to choose the best weights by and to calibrate them: name scenes with "
                "--data.held-out, or give pairs files with a test split"
            )
        for pair in training:
            width, height = image_size(pair.image)
            if height < self._data.height or width < self._data.width:
                raise InputError(
                    f"crops of {self._data.width}x{self._data.height} pixels do not fit into {pair.image}, which is "
                    f"{width}x{height}; lower --data.width and --data.height"
                )

    def batch(self, step: int, micro: int) -> Batch:
        """Draw augmented crops; see `trainee.Data.batch`."""
        data = self._data
        number = (step - 1) * data.accumulation + micro
        return collate([self._crop(draw) for draw in shard(number, data.batch, self._rank, self._processes)])

    def _crop(self, number: int) -> Batch:
        source, index, epoch = self._sampler.draw(number)
        chance = random.Random(f"{self._config.seed}/{source}/{index}/{epoch}")
        view = self._views.of(source, self._training[source][index])
        return random_crop(view, self._data, self._config.augment, chance)

    def validation(self) -> list[WarpedView]:
        """Choose some of the held-out views, evenly spread."""
        chosen = evenly_spread(self._numbered(), self._config.data.validation_pairs)
        return [self._views.of(source, pair) for source, pair in chosen]

    def held_out(self) -> Iterator[WarpedView]:
        """Give all views that are held out."""
        return (self._views.of(source, pair) for source, pair in self._numbered())

    def _numbered(self) -> list[tuple[int, Pair]]:
        return [(source, pair) for source, pairs in enumerate(self._held_out) for pair in pairs]

    @property
    def scenes(self) -> list[str]:
        """Name the scenes that are trained on."""
        return sorted({pair.scene for pairs in self._training for pair in pairs})

    @property
    def count(self) -> int:
        """Count the views that are trained on."""
        return sum(map(len, self._training))

    def fingerprint(self) -> str:
        """Digest what every pair holds and how pairs are drawn, wherever the files are."""
        pairs = [[_content(pair) for pair in pairs] for pairs in (*self._training, *self._held_out)]
        content = [pairs, self._sampler.quotas, self._config.seed]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _content(pair: Pair) -> list[str]:
    """Describe a pair by digests of its files, and its cameras."""
    files = [pair.image, pair.target_image, *pair.references, *([pair.depth] if pair.depth else [])]
    return [*map(file_digest, files), repr(pair.cameras), str(pair.clip), str(pair.frame)]
