# SPDX-License-Identifier: Apache-2.0
"""Enhancers load by name: `load_enhancer` reads the table of names and that of architectures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.enhancers.table import HUB_INDEX, SPECS, EnhancerSpec, spec_of
from harmonizer_ns.errors import InputError, suggestion
from harmonizer_ns.files import find_folder, read_json, read_torch


@dataclass(frozen=True)
class Architecture:
    """A kind of network, by the name that configurations and checkpoints have for it.

    Args:
        enhancer: ``"module:Class"``; its ``from_pretrained`` loads folders and repositories, its instances have a
            ``network`` and ``save(folder)``.
        network: ``"module:Class"`` with ``from_config``.
        to_train: options of ``from_pretrained`` for networks that are to be trained.
    """

    enhancer: str
    network: str
    to_train: Mapping[str, Any] = field(default_factory=dict)


ARCHITECTURES: dict[str, Architecture] = {
    "choice-smooth": Architecture(
        "harmonizer_ns.enhancers.builtin:BuiltinEnhancer", "harmonizer_ns.enhancers.builtin:BuiltinNetwork"
    ),
    "cosmos": Architecture(
        "harmonizer_ns.enhancers.cosmos:CosmosEnhancer",
        "harmonizer_ns.enhancers.cosmos:CosmosNetwork",
        {"cut": False},  # what it learns would not reach a copy with cuts
    ),
    "difix": Architecture("harmonizer_ns.enhancers.difix:DifixEnhancer", "harmonizer_ns.enhancers.difix:DifixNetwork"),
}


def load_enhancer(name_or_path: str | Path, device: torch.device | str = "cpu", **options: Any) -> Enhancer:
    """The enhancer of that name or Hub repository, or the one in that folder or file, on ``device``.

    Args:
        name_or_path: what to load.
        device: where to run.
        options: of the enhancer's own ``from_pretrained``, for example ``dtype``, ``tile`` or ``compiled``.

    Raises:
        InputError: when it is none of these; the message suggests names. Also when the Hub cannot be reached, and on
            an option that the enhancer has not, and when the folder or file is not a good checkpoint.
        ImportError: when a package that it needs is missing; the message holds the install line.
    """
    factory, source = _find(name_or_path, options.get("revision"))
    known = inspect.signature(factory).parameters
    strange = sorted(options.keys() - known.keys())
    if strange:
        raise InputError(f"the enhancer {name_or_path} has no option {', '.join(strange)}")
    return factory(*source, **({"device": device} if "device" in known else {}), **options)


def options_of(name_or_path: str | Path) -> frozenset[str]:
    """Which options `load_enhancer` takes for an enhancer. Raises what that raises, but weights are not read."""
    return frozenset(inspect.signature(_find(name_or_path)[0]).parameters)


def resolve(target: str) -> Any:
    """What ``"module:name"`` names; the module is imported."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def _find(
    name_or_path: str | Path, revision: str | None = None
) -> tuple[Callable[..., Enhancer], tuple[str | Path, ...]]:
    """What loads it, and from where."""
    name, path = str(name_or_path), Path(name_or_path)
    spec = SPECS.get(name) or spec_of(name)
    if spec is not None:
        return _factory(spec), (spec.repository,) if spec.repository else ()
    if path.is_file():
        return _loader(_architecture_of_file(path)), (path,)
    if path.is_dir() or "/" in name:
        return _loader(_architecture_of_folder(name_or_path, revision)), (name_or_path,)
    advice = suggestion(name, SPECS, "the names")
    raise InputError(f"unknown enhancer {name!r}: {advice}; or give a checkpoint's folder")


def _factory(spec: EnhancerSpec) -> Callable[..., Enhancer]:
    if not spec.architecture:
        from harmonizer_ns.enhancers.identity import IdentityEnhancer

        return IdentityEnhancer
    try:
        return _loader(spec.architecture)
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}; install it with: {spec.install}") from error


def _loader(architecture: str) -> Callable[..., Enhancer]:
    return resolve(ARCHITECTURES[architecture].enhancer).from_pretrained


def _architecture_of_folder(folder_or_id: str | Path, revision: str | None) -> str:
    """The architecture of a folder, here or on the Hub: ours say it, those in the Hub's layout are Difix's."""
    from harmonizer_ns.enhancers.checkpoint import CONFIG

    folder = find_folder(folder_or_id, [CONFIG, HUB_INDEX], revision)
    if (folder / HUB_INDEX).is_file():
        return "difix"
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} is not an enhancer's folder: it has neither {CONFIG} nor {HUB_INDEX}")
    name = read_json(folder / CONFIG).get("architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InputError(f"{folder / CONFIG} is of no known architecture: it says {name!r}, known are {known}")
    return name


def _architecture_of_file(path: Path) -> str:
    """Only Cosmos releases are whole enhancers in one file."""
    content = read_torch(path, mapped=True)
    if isinstance(content, dict) and "rank_vae" in content:
        raise InputError(
            f"{path} is a checkpoint of Difix without its frozen parts: make a folder of it with "
            f"harmonizer convert {path} FOLDER --kind difix, and give that folder"
        )
    return "cosmos"
