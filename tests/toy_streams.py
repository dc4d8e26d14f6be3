# SPDX-License-Identifier: Apache-2.0
"""Streams of each sort that cost nothing, for tests of recipes; as a script: ``harmonizer synthesize`` with them."""

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.errors import InputError
from harmonizer_ns.synthesis.streams.base import Clip, Made, NamedPhotos, Stream
from harmonizer_ns.synthesis.streams.curation import Reconstructors
from harmonizer_ns.synthesis.streams.table import STREAMS
from harmonizer_ns.types import Frames, cat_frames


@dataclass(frozen=True)
class ToySettings:
    """What the toys do wrong, and where."""

    fail: str = ""
    scene: str = ""
    seconds: float = 0.0
    masks: str = ""


def _misbehave(settings: ToySettings, scene: str) -> None:
    time.sleep(settings.seconds)
    if settings.fail and settings.scene in scene:
        if settings.fail == "exit":
            os._exit(1)
        raise {
            "input": InputError("cannot be used"),
            "bug": ZeroDivisionError("a bug"),
            "full": OSError(errno.ENOSPC, "No space left on device"),
        }[settings.fail]


def make_dim(clip: Clip, settings: ToySettings, seed: int) -> Iterator[Made]:
    """Darker photos."""
    for file, frame in zip(clip.files, clip.frames, strict=True):
        yield Made(
            frame * (0.2 + seed % 7 / 10),
            frame,
            {"seed": seed, "posed": clip.cameras is not None},
            torch.ones_like(frame[:1]),
            source=str(file),
        )
        _misbehave(settings, str(file))


def make_flat(capture: Capture, settings: ToySettings, seed: int) -> Iterator[Made]:
    """Two clips of three photos in grey, on a wall at depth 4, each with two other photos."""
    shown = (capture.frames(i) for i in range(len(capture)))
    photos = [Frames(p.rgb, p.alpha, torch.full_like(p.depth, 4.0), p.cameras) for p in shown]
    stems = [name.split("/")[-1].split(".")[0] for name in capture.names]
    for clip, start in enumerate((0, 3)):
        for i in range(start, start + 3):
            others = [j for j in range(len(photos)) if j != i][:2]
            references = NamedPhotos(tuple(stems[j] for j in others), cat_frames([photos[j] for j in others]))
            image = photos[i].rgb[0].mean(0, keepdim=True).expand(3, -1, -1)
            yield Made(image, photos[i].rgb[0], {"photo": i, "seed": seed}, None, photos[i], references, clip)
    _misbehave(settings, capture.name)


def make_noise(nothing: None, settings: ToySettings, seed: int) -> Iterator[Made]:
    """A clip of two frames of noise."""
    _misbehave(settings, "")
    target = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(seed))
    for strength in (0.5, 0.0):
        yield Made(target * (1 - strength), target, {"strength": strength})


def make_named(nothing: None, settings: ToySettings, seed: int, reconstructors: Reconstructors) -> Iterator[Made]:
    """A frame that tells what captures could be fitted with."""
    yield Made(torch.zeros(3, 8, 8), torch.ones(3, 8, 8), {"reconstructors": sorted(reconstructors)})


TOYS: dict[str, Stream] = {
    "dim": Stream(ToySettings, make_dim, "clip"),
    "flat": Stream(ToySettings, make_flat, "capture"),
    "noise": Stream(ToySettings, make_noise, "nothing"),
    "named": Stream(ToySettings, make_named, "nothing", reconstructs=True),
}

if __name__ in ("__main__", "__mp_main__"):  # and in the workers that the script starts
    STREAMS.update(TOYS)

if __name__ == "__main__":
    from harmonizer_ns.cli.main import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    sys.argv[1:1] = ["synthesize"]
    main()
