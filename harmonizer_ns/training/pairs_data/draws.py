# SPDX-License-Identifier: Apache-2.0
"""The training loop draws single views and clips from pairs files, in turns."""

from __future__ import annotations

import hashlib

from harmonizer_ns.errors import InputError
from harmonizer_ns.pairs import Pair, read_pairs
from harmonizer_ns.spread import evenly_spread
from harmonizer_ns.training.config import OneStepConfig, TemporalConfig, TrainingConfig
from harmonizer_ns.training.pairs_data.batch import PairBatch
from harmonizer_ns.training.pairs_data.checks import check_pairs
from harmonizer_ns.training.pairs_data.dataset import PairDataset, load_item, shard


class PairsData:
    """Draws the batches of one process; see `trainee.Data`.

    Args:
        config: of the run.
        multiple: of which the sides of what the network sees are multiples.
        rank: number of the process.
        processes: how many there are.

    Raises:
        InputError: naming everything that is wrong with pairs files and the images that they name.
    """

    def __init__(self, config: OneStepConfig, multiple: int, rank: int = 0, processes: int = 1) -> None:
        training, held_out = read_splits(config)
        self._config, self._rank, self._processes = config, rank, processes
        self._data = config.data.fitted(multiple)
        self._tests = evenly_spread([pair for pairs in held_out for pair in pairs], config.data.validation_pairs)
        self._singles = PairDataset(training, self._data, seed=config.seed)
        self._clips = None
        if config.temporal.context:
            self._clips = PairDataset(training, self._data, config.temporal.clip, config.seed)

    @property
    def lacks_motion(self) -> bool:
        """Tell whether some clip has frames without depth or cameras."""
        items = [] if self._clips is None else [pair for file in self._clips.items for item in file for pair in item]
        return not all(pair.has_geometry for pair in items)

    def batch(self, step: int, micro: int) -> PairBatch:
        """Draw views, or clips at the steps that show context."""
        data, clips = self._data, clip_steps(step, self._config.temporal)
        if shows_context(step, self._config.temporal) and self._clips:
            dataset, turn = self._clips, clips - 1
        else:
            dataset, turn = self._singles, step - clips - 1
        return dataset.batch(shard(turn * data.accumulation + micro, data.batch, self._rank, self._processes))

    def validation(self) -> list[PairBatch]:
        """Load some of the held-out pairs, each by itself: the largest crop in the middle."""
        return [load_item((pair,), self._data) for pair in self._tests]

    def fingerprint(self) -> str:
        """Digest what is drawn, wherever the files are."""
        parts = [dataset.fingerprint() for dataset in (self._singles, self._clips) if dataset]
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def shows_context(step: int, config: TemporalConfig) -> bool:
    """Tell whether an optimizer step, counted from 1, sees clips."""
    return config.context > 0 and step > config.start and step % config.every == 0


def clip_steps(step: int, config: TemporalConfig) -> int:
    """Count how many of the first ``step`` steps show context."""
    return max(0, step // config.every - config.start // config.every) if config.context else 0


def read_splits(config: TrainingConfig) -> tuple[list[list[Pair]], list[list[Pair]]]:
    """Read the pairs to train on and those held out, of each file: by its own splits, or by scenes that are named.

    Raises:
        InputError: naming everything that is wrong with pairs files and the images that they name, and when no pair is
            of a scene that is named.
    """
    files, scenes = [read_pairs(path, config.data.allow_outside) for path in config.pairs], config.data.held_out
    check_pairs([file.train + file.test for file in files])
    if not scenes:
        return [list(file.train) for file in files], [list(file.test) for file in files]
    known = {pair.scene for file in files for pair in file.train + file.test}
    if unknown := sorted(set(scenes) - known):
        there = ", ".join(sorted(known))
        raise InputError(f"--data.held-out {' '.join(unknown)}: no pair is of that scene; there are {there}")
    training, held_out = (
        [[pair for pair in file.train + file.test if (pair.scene in scenes) == aside] for file in files]
        for aside in (False, True)
    )
    return training, held_out
