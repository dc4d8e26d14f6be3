# SPDX-License-Identifier: Apache-2.0
"""A video that is written part by part, so that an interrupted run goes on where it was."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import read_json, write_json
from harmonizer_ns.footage.sequence import Item
from harmonizer_ns.media import VideoWriter, check_same_size, join_videos, read_video, written_video

PART_FRAMES = 480
PART_SECONDS = 60.0
"""A part ends after so many frames, or so much work."""
_STATE = "state.json"


class VideoParts:
    """Whole short videos in a hidden folder beside the target, until they are joined.

    Args:
        target: the video.
        fps: frames per second.
        settings: JSON values; parts of a run with other settings are thrown away.
        failures: what was wrong with frames that were left out; those of the interrupted run are added.
        sound_from: a file whose sound the video gets.
        clock: tells seconds.
    """

    def __init__(
        self,
        target: Path,
        fps: float,
        settings: dict[str, Any],
        failures: list[str],
        sound_from: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target, self._fps, self._failures = target, fps, failures
        self._sound_from, self._clock = sound_from, clock
        self._folder = target.with_name(f".{target.name}.parts")
        self._state: dict[str, Any] = {"settings": settings, "next": 0, "parts": [], "failures": [], "size": None}
        self._writer: VideoWriter | None = None
        self._open = ExitStack()
        self._numbers: list[int] = []
        self._began = 0.0

    def __enter__(self) -> VideoParts:
        try:
            file = self._folder / _STATE
            stored = read_json(file) if file.is_file() else None
            if stored is not None and stored["settings"] == self._state["settings"]:
                self._state = stored
                self._failures[:0] = stored["failures"]
            else:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"{self._target} cannot be written: {error}") from error
        return self

    def marked(self, items: Iterable[Item]) -> Iterator[Item]:
        """The frames; those that are written already are marked, those that were left out are gone."""
        written = {number for part in self._state["parts"] for number in part["numbers"]}
        for item in items:
            if item.number >= self._state["next"]:
                yield item
            elif item.number in written:
                yield replace(item, repaired=partial(self._written, item.number))

    def write(self, item: Item, picture: Float[Tensor, "3 h w"]) -> None:
        """Add the repaired picture of a frame.

        Raises:
            InputError: when it has another size than the first, or cannot be written.
        """
        size = [picture.shape[-1], picture.shape[-2]]
        self._state["size"] = self._state["size"] or size
        check_same_size(self._target, self._state["size"], size)
        if self._writer is None:
            part = written_video(self._folder / f"{item.number:09d}.mp4", self._fps, joinable=True)
            self._writer = self._open.enter_context(part)
            self._began = self._clock()
        self._writer.write(picture)
        self._numbers.append(item.number)
        if len(self._numbers) >= PART_FRAMES or self._clock() - self._began >= PART_SECONDS:
            self._end_part()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Make the video of the parts; after an error they wait for the next run. Without frames there is nothing."""
        if kind is None:
            self._end_part()
        else:
            self._open.__exit__(kind, error, trace)
        files = [self._folder / part["file"] for part in self._state["parts"]]
        if kind is None and files:
            join_videos(files, self._target, self._sound_from)
        if kind is None or not files:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _end_part(self) -> None:
        if self._writer is None:
            return
        self._writer = None
        self._open.close()
        part = {"file": f"{self._numbers[0]:09d}.mp4", "numbers": self._numbers}
        self._state["parts"].append(part)
        self._state.update(next=self._numbers[-1] + 1, failures=list(self._failures))
        self._numbers = []
        write_json(self._folder / _STATE, self._state)

    def _written(self, number: int) -> UInt8[Tensor, "3 h w"]:
        part = next(part for part in self._state["parts"] if number in part["numbers"])
        _, frames = read_video(self._folder / part["file"])
        return next(frame for other, frame in zip(part["numbers"], frames, strict=True) if other == number)
