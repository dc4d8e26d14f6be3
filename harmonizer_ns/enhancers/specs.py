# SPDX-License-Identifier: Apache-2.0
"""Which enhancers there are: one table, read late."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.errors import InputError


@dataclass(frozen=True)
class EnhancerSpec:
    """Where an enhancer lives.

    Args:
        target: ``"module:Class"``, or ``"module:Class.factory"``; called with ``repository`` where there is one, and
            with ``device=`` where it takes that.
        install: the command that installs what it needs.
        licence: licence of its weights.
        description: one line for ``--help``.
        repository: where on the Hugging Face Hub its weights are downloaded from; empty: they are part of the project.
    """

    target: str
    install: str
    licence: str
    description: str
    repository: str = ""


SPECS: dict[str, EnhancerSpec] = {
    "none": EnhancerSpec(
        "harmonizer_ns.enhancers.identity:IdentityEnhancer",
        "pip install harmonizer-ns",
        "Apache-2.0",
        "leaves every frame as it is",
    ),
    "builtin": EnhancerSpec(
        "harmonizer_ns.enhancers.builtin.enhancer:BuiltinEnhancer.from_pretrained",
        "pip install harmonizer-ns",
        "Apache-2.0",
        "chooses per pixel between the render and warped photos; small, runs on a CPU",
    ),
    "difix": EnhancerSpec(
        "harmonizer_ns.enhancers.difix.enhancer:DifixEnhancer.from_pretrained",
        "pip install harmonizer-ns",
        "NVIDIA License, non-commercial use only",
        "Difix: one step of SD-Turbo on single frames; wants a GPU",
        "nvidia/difix",
    ),
    "difix-ref": EnhancerSpec(
        "harmonizer_ns.enhancers.difix.enhancer:DifixEnhancer.from_pretrained",
        "pip install harmonizer-ns",
        "NVIDIA License, non-commercial use only",
        "Difix that also looks at a reference photo",
        "nvidia/difix_ref",
    ),
    "fixer": EnhancerSpec(
        "harmonizer_ns.enhancers.cosmos.enhancer:CosmosEnhancer.from_pretrained",
        "pip install harmonizer-ns",
        "NVIDIA Open Model License",
        "Fixer: one step of Cosmos 0.6B on single frames; wants a GPU",
        "nvidia/Fixer",
    ),
    "harmonizer": EnhancerSpec(
        "harmonizer_ns.enhancers.cosmos.enhancer:CosmosEnhancer.from_pretrained",
        "pip install harmonizer-ns",
        "NVIDIA Open Model License",
        "Harmonizer: as Fixer, and sees its own last four outputs",
        "nvidia/Harmonizer",
    ),
}

ARCHITECTURES: dict[str, str] = {
    "choice-smooth": "harmonizer_ns.enhancers.builtin.enhancer:BuiltinEnhancer",
    "cosmos": "harmonizer_ns.enhancers.cosmos.enhancer:CosmosEnhancer",
    "difix": "harmonizer_ns.enhancers.difix.enhancer:DifixEnhancer",
}
"""What loads a checkpoint folder, by the architecture that its ``config.json`` names."""
_HUB_INDEX = "model_index.json"


def load_enhancer(name_or_path: str | Path, device: torch.device | str = "cpu", **options: Any) -> Enhancer:
    """The enhancer of that name or Hub repository, or the one in that folder or file, on ``device``.

    Args:
        name_or_path: what to load.
        device: where to run.
        options: of the enhancer's own ``from_pretrained``, for example ``dtype``, ``tile`` or ``compiled``.

    Raises:
        InputError: when it is none of these; the message lists the names. Also when the Hub cannot be reached, and on
            an option that the enhancer has not.
        ImportError: when a package that it needs is missing; the message holds the install line.
        CheckpointError: when the folder or file is not a good checkpoint.
    """
    factory, source = _find(name_or_path)
    known = inspect.signature(factory).parameters
    strange = sorted(options.keys() - known.keys())
    if strange:
        raise InputError(f"the enhancer {name_or_path} has no option {', '.join(strange)}")
    return factory(*source, **({"device": device} if "device" in known else {}), **options)


def options_of(name_or_path: str | Path) -> frozenset[str]:
    """Which options `load_enhancer` takes for an enhancer. Raises what that raises, but weights are not read."""
    return frozenset(inspect.signature(_find(name_or_path)[0]).parameters)


def _find(name_or_path: str | Path) -> tuple[Callable[..., Enhancer], tuple[str | Path, ...]]:
    """What loads it, and from where."""
    name, path = str(name_or_path), Path(name_or_path)
    if name in SPECS:
        return _of_spec(SPECS[name])
    if path.is_dir():
        return _resolve(ARCHITECTURES[_architecture(path)]).from_pretrained, (path,)
    if path.is_file():
        return _of_file(path)
    if "/" in name:
        return _of_repository(name)
    raise InputError(
        f"unknown enhancer {name!r}: known names are {', '.join(SPECS)}; or give the folder of a checkpoint"
    )


def _of_spec(spec: EnhancerSpec) -> tuple[Callable[..., Enhancer], tuple[str, ...]]:
    try:
        factory = _resolve(spec.target)
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}; install it with: {spec.install}") from error
    return factory, (spec.repository,) if spec.repository else ()


def _architecture(folder: Path) -> str:
    """The architecture of a folder: ours say it, those in the Hub's layout are Difix's."""
    if (folder / _HUB_INDEX).is_file():
        return "difix"
    from harmonizer_ns.enhancers.checkpoint import CONFIG, CheckpointError
    from harmonizer_ns.enhancers.reading import read_json

    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} is not an enhancer's folder: it has neither {CONFIG} nor {_HUB_INDEX}")
    name = read_json(folder / CONFIG).get("architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"{folder / CONFIG} is of no known architecture: it says {name!r}, known are {known}")
    return name


def _of_file(path: Path) -> tuple[Callable[..., Enhancer], tuple[Path]]:
    """Only Cosmos releases are whole enhancers in one file."""
    from harmonizer_ns.enhancers.reading import read_pickle

    content = read_pickle(path)
    if isinstance(content, dict) and "rank_vae" in content:
        raise InputError(
            f"{path} is a checkpoint of Difix without its frozen parts: make a folder of it with "
            f"harmonizer convert {path} FOLDER --kind difix, and give that folder"
        )
    return _resolve(ARCHITECTURES["cosmos"]).from_pretrained, (path,)


def _of_repository(repository: str) -> tuple[Callable[..., Enhancer], tuple[str, ...]]:
    """Whatever is not in the table is taken for a folder in Difix's layout."""
    listed = next((spec for spec in SPECS.values() if spec.repository == repository), None)
    if listed is not None:
        return _of_spec(listed)
    return _resolve(ARCHITECTURES["difix"]).from_pretrained, (repository,)


def _resolve(target: str) -> Any:
    module, _, attributes = target.partition(":")
    found: Any = import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found
