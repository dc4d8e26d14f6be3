# SPDX-License-Identifier: Apache-2.0
"""One command that checks and times on a GPU all that runs there, in less than eight minutes.

Results are written after every part, so that a card that is taken away leaves what it has done; a later call with the
same file does the sections that are not complete.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harmonizer_ns.bench import gpu_networks, gpu_splats, stereo
from harmonizer_ns.bench.parts import GPU, TINY, Part, Scale, named, timed
from harmonizer_ns.errors import InputError, first_line
from harmonizer_ns.files import read_json, write_json

FORMAT = "harmonizer-gpu-bench"


@dataclass(frozen=True)
class GpuBench:
    """Check and time on one GPU: ceilings of the card, rasterizer, training, viewer, depth, enhancers."""

    json: Path
    """File for the results. One that holds results of the same card is completed."""
    sections: tuple[str, ...] = ()
    """Names of sections, all by default: ceilings, parity, raster, training, viewer, stereo, builtin, difix,
    harmonizer, fixer. A section that is named is measured anew."""
    architectures: Path = Path("configs")
    """Folder of difix.json, fixer.json and harmonizer.json, which get random weights: the repository's."""
    seconds: float = 450.0
    """Nothing is begun that would not end within so many seconds."""
    tiny: bool = False
    """Try everything at a size at which figures say nothing."""


Section = Callable[[Scale, Path], Iterator[Part]]


def _ceilings(scale: Scale, _: Path) -> Iterator[Part]:
    """What the card itself can do."""
    yield Part("copy on the card, GB/s", 1, partial(_copying, scale))
    yield Part("matrices in half precision, TFLOP/s", 2, partial(_multiplying, scale))
    yield Part("over the bus, GB/s", 2, partial(_transferring, scale))


def _copying(scale: Scale) -> float:
    source = torch.zeros(scale.copied, dtype=torch.uint8, device=GPU)
    target = torch.empty_like(source)
    return _rate(2 * source.nbytes, partial(target.copy_, source), scale)


def _multiplying(scale: Scale) -> float:
    matrix = torch.randn(scale.side, scale.side, device=GPU, dtype=torch.bfloat16)
    return _rate(2 * scale.side**3, partial(torch.mm, matrix, matrix), scale) / 1e3


def _transferring(scale: Scale) -> dict[str, float]:
    """The bytes of seven channels of a large image, both ways, from memory that is pinned or not."""
    pageable = torch.zeros(7, scale.large[1], scale.large[0], dtype=torch.uint8)
    pinned, there = pageable.pin_memory(), pageable.to(GPU)
    ways = {"up": partial(pageable.to, GPU), "up, pinned": partial(pinned.to, GPU), "down": there.cpu}
    return {name: _rate(pageable.nbytes, step, scale) for name, step in ways.items()}


def _rate(amount: float, step: Callable[[], Any], scale: Scale) -> float:
    """Billions a second."""
    return round(amount / timed(step, scale)["ms"] / 1e6, 2)


def _stereo(scale: Scale, _: Path) -> Iterator[Part]:
    """Depth from photos of the demo scene."""

    def work() -> dict[str, float]:
        seconds, added = stereo.measure(stereo.StereoBench(photos=4), scale.depth, "cuda")
        return {"ms a photo": round(1e3 * seconds, 1), "MiB added": round(added / 2**20)}

    yield Part(named(scale.depth), 20, work)


SECTIONS: dict[str, Section] = {
    "ceilings": _ceilings,
    "parity": gpu_splats.parity,
    "raster": gpu_splats.raster,
    "training": gpu_splats.training,
    "viewer": gpu_splats.viewer,
    "stereo": _stereo,
    "builtin": gpu_networks.builtin,
    "difix": partial(gpu_networks.one_step, "difix"),
    "harmonizer": partial(gpu_networks.one_step, "harmonizer"),
    "fixer": partial(gpu_networks.one_step, "fixer"),
}
"""What is worth most comes first."""


@dataclass
class _Results:
    """The file."""

    path: Path
    card: dict[str, Any]
    deadline: float
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    complete: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.path.exists():
            return
        content = read_json(self.path)
        if content.get("format") != FORMAT or content.get("card") != self.card:
            raise InputError(f"{self.path} exists, and does not hold results of this card and version; give another")
        self.sections, self.complete = content["sections"], content["complete"]

    def measure(self, name: str, parts: Iterator[Part]) -> None:
        """Do the parts of a section for which there is time, and write what each found or why it failed."""
        found = self.sections[name] = {}
        self.complete = [other for other in self.complete if other != name]
        left_out = 0
        for part in parts:
            left = self.deadline - time.monotonic()
            if left < part.seconds:
                found[part.name] = f"left out: {left:.0f} s left, about {part.seconds:.0f} needed"
                left_out += 1
            else:
                found[part.name] = self._done(name, part)
            print(f"{name}, {part.name}: {found[part.name]}", flush=True)
            self._write()
        if not left_out:
            self.complete.append(name)
            self._write()

    def _done(self, section: str, part: Part) -> Any:
        try:
            return part.work()
        except Exception as error:  # one part's failure, which is written down, does not spoil the others
            self.failed.append(f"{section}, {part.name}")
            return {"error": f"{type(error).__name__}: {first_line(error)}"}

    def _write(self) -> None:
        content = {"format": FORMAT, "card": self.card, "sections": self.sections, "complete": self.complete}
        write_json(self.path, content)


def run(bench: GpuBench) -> None:
    """Measure section by section.

    Raises:
        InputError: without a GPU, on a section that does not exist, and on a file of something else.
    """
    if not torch.cuda.is_available():
        raise InputError("this benchmark needs an NVIDIA GPU, and torch finds none here")
    for unknown in set(bench.sections) - set(SECTIONS):
        raise InputError(f"there is no section {unknown!r}, only {', '.join(SECTIONS)}")
    scale = TINY if bench.tiny else Scale()
    results = _Results(bench.json, _card(bench.tiny), time.monotonic() + bench.seconds)
    for name in bench.sections or [name for name in SECTIONS if name not in results.complete]:
        results.measure(name, SECTIONS[name](scale, bench.architectures))
        torch.cuda.empty_cache()
    if results.failed:
        sys.exit(f"harmonizer bench gpu: failed: {'; '.join(results.failed)}; see {bench.json}")


def _card(tiny: bool) -> dict[str, Any]:
    """What figures depend on."""
    facts = torch.cuda.get_device_properties(GPU)
    return {
        "name": torch.cuda.get_device_name(GPU),
        "GiB": round(facts.total_memory / 2**30),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "tiny": tiny,
    }
