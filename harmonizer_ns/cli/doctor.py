# SPDX-License-Identifier: Apache-2.0
"""``harmonizer doctor``: what is on this machine, what each command can use of it, and what to install for the rest."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Any

import torch
from packaging.requirements import Requirement

from harmonizer_ns import __version__
from harmonizer_ns.cli.enhancers import where
from harmonizer_ns.cli.parsing import read_options
from harmonizer_ns.enhancers.table import SPECS
from harmonizer_ns.errors import InputError, install_line

EXAMPLES = """
harmonizer doctor
harmonizer doctor --json      # to put beside a question
"""
PACKAGE = "harmonizer-ns"
_DECISIVE = "torch", "gsplat", "nerfstudio", "diffusers", "viser", "numpy", "numba"
_OPENCVS = "opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"
COMPILERS = {
    "nvcc": "gsplat's kernels, where gsplat brings none",
    "c++": "packages of nerfstudio that come as source",
    "cmake": "packages of nerfstudio that come as source",
    "ninja": "gsplat's kernels, where gsplat brings none",
}
"""Program -> what it compiles."""
USES: dict[str, dict[str, str]] = {
    "ns-train harmonize": {"nerfstudio": "all of it", "matching": "seeds from five photos or fewer"},
    "gsplat-trainer": {
        "matching": "seeds from five photos or fewer",
        "splats": ".spz and compressed .ply",
        "metrics": "LPIPS",
    },
    "harmonizer enhance": {},
    "harmonizer view": {"nerfstudio": "config.yml", "splats": ".spz and compressed .ply"},
    "harmonizer evaluate": {
        "nerfstudio": "config.yml",
        "metrics": "LPIPS, FID and KID",
        "matching": "--protocol with five photos or fewer",
        "ray": "--ray",
    },
    "harmonizer ablate": {"matching": "scenes of five photos or fewer", "ray": "--ray"},
    "harmonizer synthesize": {"synthesis": "the stream shadows", "nerfstudio": "fitting NeRFs", "ray": "--ray"},
    "harmonizer scenes": {"synthesis": "all of it"},
    "harmonizer train": {"metrics": "losses of LPIPS, Gram and RAFT"},
    "harmonizer convert": {},
    "harmonizer bench": {},
    "harmonizer selftest": {"selftest": "all of it"},
}
"""Command -> extra -> what the command does with it. What the installed package does not offer is no extra."""


@dataclass(frozen=True)
class DoctorConfig:
    """Tell what works on this machine, and what to install for the rest. Nothing is installed, loaded or asked online.

    It tells versions, device, gsplat's kernels, compilers, which weights are here, which extras are installed, and for
    each command what it lacks.
    """

    json: bool = False
    """Print all of it as JSON."""


parse = partial(read_options, DoctorConfig, "doctor", EXAMPLES)


def main(config: DoctorConfig) -> None:
    """Look, and print what was found."""
    found = examine()
    print(json.dumps(found, indent=1) if config.json else told(found))


def examine() -> dict[str, Any]:
    """Everything that is found, under the headings that are printed."""
    offered = extras()
    missing = {name: packages for name, packages in offered.items() if packages}
    return {
        "versions": {"harmonizer": __version__, "Python": platform.python_version(), **_installed()},
        "device": _device(),
        "gsplat's CUDA kernels": _kernels(),
        "compilers": {name: shutil.which(name) or f"missing; for {use}" for name, use in COMPILERS.items()},
        "weights": {name: where(spec) for name, spec in SPECS.items() if spec.architecture},
        "extras": {name: f"missing: {install_line(name)}" if name in missing else "installed" for name in offered},
        "commands": {name: _ability(uses, missing) for name, uses in USES.items()},
        "to mend": list(_faults()),
    }


def told(found: dict[str, Any]) -> str:
    """Tell what was found, as lines for people."""
    lines = []
    for heading, content in found.items():
        if isinstance(content, dict):
            width = max(map(len, content))
            lines += [f"{heading}:", *(f"  {name:<{width}}  {value}" for name, value in content.items())]
        elif isinstance(content, list):
            lines += [f"{heading}:", *(f"  {line}" for line in content or ["nothing"])]
        else:
            lines.append(f"{heading}: {content}")
    return "\n".join(lines)


def extras() -> dict[str, list[str]]:
    """Extra -> its packages that are missing here, for all extras that the installed package offers."""
    names = metadata(PACKAGE).get_all("Provides-Extra") or []
    return {name: [str(needed) for needed in _needed(name) if not _fits(needed)] for name in sorted(names)}


def _needed(extra: str = "") -> Iterator[Requirement]:
    """The packages that an extra adds, those of the extras that it names included; without one, those of the core."""
    for line in requires(PACKAGE) or []:
        needed = Requirement(line)
        marker = needed.marker
        if marker and (not marker.evaluate({"extra": extra}) or (extra and marker.evaluate({"extra": ""}))):
            continue
        if needed.name == PACKAGE:
            for inner in needed.extras:
                yield from _needed(inner)
        elif bool(marker and "extra" in str(marker)) == bool(extra):
            yield needed


def _fits(needed: Requirement) -> bool:
    """Tell whether a package is here, in a version that will do."""
    found = _version(needed.name)
    return found is not None and needed.specifier.contains(found, prereleases=True)


def _installed() -> dict[str, str]:
    """Give the versions of those packages that decide most."""
    return {name: _version(name) or "missing" for name in _DECISIVE}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _faults() -> Iterator[str]:
    """Packages of the core that are missing or of another version than is asked for, and those that shadow them."""
    for needed in _needed():
        if not _fits(needed):
            yield f"pip install '{needed.name}{needed.specifier}'"
    cv2 = [name for name in _OPENCVS if _version(name)]
    if len(cv2) > 1:  # one overwrites the other
        yield f"pip uninstall {' '.join(cv2)}; pip install 'opencv-python-headless<5'"


def _device() -> str:
    cpu = f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} CPU cores"
    if not torch.cuda.is_available():
        reason = "torch finds no GPU or driver" if torch.version.cuda else "this torch is built without CUDA"
        return f"{cpu}; no GPU: {reason}"
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    listed = (f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, compute {gpu.major}.{gpu.minor}" for gpu in gpus)
    return "; ".join([*listed, f"torch's CUDA {torch.version.cuda}", cpu])


def _kernels() -> str:
    if not torch.cuda.is_available():
        return "not needed: without a GPU splats are drawn by our CPU rasterizer"
    from harmonizer_ns.raster.gsplat_kernels import kernels_found

    try:
        return kernels_found()
    except InputError as error:
        return str(error)


def _ability(uses: dict[str, str], missing: dict[str, list[str]]) -> str:
    """Tell what a command can do here: all of it, or what it lacks with the line that installs it."""
    lacks = [f"{what} needs {install_line(extra)}" for extra, what in uses.items() if extra in missing]
    return "; ".join(lacks) or "ready"
