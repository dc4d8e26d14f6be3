# SPDX-License-Identifier: Apache-2.0
"""The training loop's data: single views and clips from pairs files, taking turns."""

from __future__ import annotations

import hashlib

from harmonizer_ns.pairs import Pair, Pairs, read_pairs
from harmonizer_ns.training.batch import PairBatch
from harmonizer_ns.training.config import TemporalConfig, TrainingConfig
from harmonizer_ns.training.crops import CropConfig
from harmonizer_ns.training.dataset import PairDataset, load_item
from harmonizer_ns.training.mixture import shard
from harmonizer_ns.training.pairs import check_pairs


class PairsData:
    """Batches of one process; see `trainee.Data`.

    Args:
        config: of the run.
        multiple: of which the sides of what the network sees are multiples.
        rank: number of the process.
        processes: how many there are.

    Raises:
        InputError: naming everything that is wrong with pairs files and the images that they name.
    """

    def __init__(self, config: TrainingConfig, multiple: int, rank: int = 0, processes: int = 1) -> None:
        files = [read_pairs(path, config.data.allow_outside) for path in config.pairs]
        check_pairs([file.train + file.test for file in files])
        data = config.data
        height, width = (max(multiple, side // multiple * multiple) for side in (data.height, data.width))
        self._config, self._rank, self._processes = config, rank, processes
        self._crop = CropConfig(height, width, data.zoom, data.flip)
        self._tests = _spread(files, data.validation_pairs)
        training, options = [file.train for file in files], (data.weights, config.seed)
        self._singles = PairDataset(training, self._crop, data.references, None, *options)
        self._clips = None
        if config.temporal.context:
            self._clips = PairDataset(training, self._crop, data.references, config.temporal.clip, *options)

    @property
    def lacks_motion(self) -> bool:
        """Whether some clip has frames without depth or cameras."""
        items = [] if self._clips is None else [pair for file in self._clips.items for item in file for pair in item]
        return any(pair.depth is None or pair.cameras is None for pair in items)

    @property
    def lacks_geometry(self) -> bool:
        """Whether no pair has depth and cameras."""
        return not any(pair.depth and pair.cameras for file in self._singles.items for (pair,) in file)

    def batch(self, step: int, micro: int) -> PairBatch:
        """Views, or clips at the steps that show context."""
        data, clips = self._config.data, clip_steps(step, self._config.temporal)
        if shows_context(step, self._config.temporal) and self._clips:
            dataset, turn = self._clips, clips - 1
        else:
            dataset, turn = self._singles, step - clips - 1
        return dataset.batch(shard(turn * data.accumulation + micro, data.batch, self._rank, self._processes))

    def validation(self) -> list[PairBatch]:
        """Pairs of the "test" split, each by itself: the largest crop in the middle."""
        return [load_item((pair,), self._crop, self._config.data.references) for pair in self._tests]

    def fingerprint(self) -> str:
        """Of what is drawn."""
        parts = [dataset.fingerprint() for dataset in (self._singles, self._clips) if dataset]
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def shows_context(step: int, config: TemporalConfig) -> bool:
    """Whether an optimizer step, counted from 1, sees clips."""
    return config.context > 0 and step > config.start and step % config.every == 0


def clip_steps(step: int, config: TemporalConfig) -> int:
    """How many of the first ``step`` steps show context."""
    return max(0, step // config.every - config.start // config.every) if config.context else 0


def _spread(files: list[Pairs], count: int) -> list[Pair]:
    """At most ``count`` test pairs, evenly spread over all files."""
    pairs = [pair for file in files for pair in file.test]
    kept = min(count, len(pairs))
    return [pairs[i * len(pairs) // kept] for i in range(kept)]
