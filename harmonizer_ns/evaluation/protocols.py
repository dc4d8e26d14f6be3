# SPDX-License-Identifier: Apache-2.0
"""A protocol says how a method is judged, so that two reports can be compared: it stands in every one of them.

{"version": 1, "scenes": ["fern"], "splits": {"4th": {"rule": "every", "train": 4}}, "width": 240,
"runs": [{"steps": 1000, "seeds": [0, 1, 2], "fix_start": 200, "steps_per_fix": 100}]}
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from harmonizer_ns.enhancers.digest import weights_digest
from harmonizer_ns.errors import InputError, check_limits
from harmonizer_ns.evaluation.splits import Split
from harmonizer_ns.files import find_shipped, read_json, write_json
from harmonizer_ns.strict_dataclasses import build

Scene = TypeVar("Scene")
Resize = Literal["bicubic", "lanczos", "bilinear", "box"]


@dataclass(frozen=True)
class Run:
    """Is one length of training, with every seed that it is repeated with."""

    steps: int
    """Training steps."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of gsplat_trainer."""
    fix_start: int = 0
    """Step of the first round of repairs."""
    steps_per_fix: int = 100
    """Steps between rounds."""
    options: tuple[str, ...] = ()
    """Flags of gsplat_trainer for this length."""

    def __post_init__(self) -> None:
        check_limits(self, steps=(1, math.inf), fix_start=(0, math.inf), steps_per_fix=(1, math.inf))
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds should be different numbers, at least one, got {list(self.seeds)}")


@dataclass(frozen=True)
class EnhancerVersion:
    """Names an enhancer and the state of its weights."""

    name: str = "builtin"
    """A name, a folder or a repository."""
    sha256: str | None = None
    """Of its weights; None takes those that are there, and reports say which these were."""


@dataclass(frozen=True)
class Protocol:
    """Says on what, how long and how often something is tried, and what is compared."""

    version: Literal[1]
    """Of this format."""
    splits: dict[str, Split]
    """By name; every scene is tried with each."""
    runs: tuple[Run, ...]
    """Lengths of training."""
    name: str = ""
    """The file's, unless it gives another."""
    source: str = ""
    """Where the protocol comes from."""
    scenes: tuple[str, ...] = ()
    """Names of folders; none leaves the choice to the command line."""
    width: int | None = None
    """Width that photos are brought to, in pixels; None keeps it."""
    factor: int = 1
    """How many times smaller photos are used: those of the capture's images_FACTOR, or resized where there are none."""
    resize: Resize = "bicubic"
    """Pillow's filter for both; all antialias."""
    judged: int | None = None
    """At most so many photos are judged in a scene, evenly spread; None: all."""
    targets: Literal["eval", "auto"] = "eval"
    """Where repairs are made: at the judged cameras (never the photos), or around the capture."""
    enhancer: EnhancerVersion = field(default_factory=EnhancerVersion)
    """What repairs."""
    options: tuple[str, ...] = ()
    """Flags of gsplat_trainer for all runs."""

    def __post_init__(self) -> None:
        check_limits(self, factor=(1, 64))
        if not self.splits or not self.runs:
            raise InputError("a protocol needs at least one split and one run")
        if self.width is not None and (self.width < 16 or self.factor > 1):
            raise InputError(f"give a width of at least 16 or a factor, got {self.width} and {self.factor}")
        if self.judged is not None and self.judged < 1:
            raise InputError(f"judged should be at least 1, got {self.judged}")
        if len({run.steps for run in self.runs}) < len(self.runs):
            raise InputError(f"runs should have different steps, got {[run.steps for run in self.runs]}")

    def tried(self, scenes: Sequence[Scene]) -> list[tuple[Run, int, Scene]]:
        """List what is trained: a length, a seed, a scene; those of a seed come together, first seeds first."""
        return [(run, seed, scene) for run in self.runs for seed in run.seeds for scene in scenes]

    def settings(self) -> dict[str, Any]:
        """Give all of it as JSON can hold it."""
        return json.loads(json.dumps(asdict(self)))

    def complete(self) -> Protocol:
        """Fill in which weights the enhancer has.

        Raises:
            InputError: when the protocol names others.
        """
        found, wanted = weights_digest(self.enhancer.name, fetch=True), self.enhancer.sha256
        if wanted is not None and wanted != found:
            raise InputError(
                f"the protocol {self.name} is for weights of {self.enhancer.name} with sha256 {wanted[:12]}, here are "
                f"{str(found)[:12]}; install those, or take a protocol without a hash"
            )
        return replace(self, enhancer=replace(self.enhancer, sha256=found))


def read_protocol(named: str | Path) -> Protocol:
    """Read a protocol.

    Args:
        named: a JSON file, or the name of a shipped protocol.

    Raises:
        InputError: naming the entry that is unknown or wrong.
    """
    path = find_shipped(named, "protocols", ".json")
    return parse_protocol({"name": path.stem, **read_json(path)}, str(path))


def parse_protocol(content: Any, where: str) -> Protocol:
    """Build a protocol from what a file or a report holds.

    Raises:
        InputError: beginning with ``where``, naming the entry that is unknown or wrong.
    """
    version = content.get("version") if isinstance(content, dict) else None
    if version != 1:
        raise InputError(f"{where} is no protocol of version 1, its version is {version!r}")
    return build(Protocol, content, where)


def claim(folder: Path, protocol: Protocol) -> None:
    """Let a folder hold results by this protocol and no other.

    Raises:
        InputError: when it holds those of another one.
    """
    path = folder / "protocol.json"
    if path.is_file():
        differing = differences(parse_protocol(read_json(path), str(path)), protocol)
        if differing:
            raise InputError(f"{folder} is for another protocol, take another --output: {'; '.join(differing)}")
    write_json(path, protocol.settings())


def differences(one: Protocol, other: Protocol) -> list[str]:
    """Say in which entries two protocols differ; scenes may, for each is judged by itself."""
    names = [item.name for item in fields(Protocol) if item.name != "scenes"]
    return [
        f"{name} {_short(getattr(one, name))} against {_short(getattr(other, name))}"
        for name in names
        if getattr(one, name) != getattr(other, name)
    ]


def _short(value: Any) -> str:
    return f"{value}"[:160]
