# SPDX-License-Identifier: Apache-2.0
"""Which enhancers there are: one table, read late."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from harmonizer_ns.enhancers.base import Enhancer


@dataclass(frozen=True)
class EnhancerSpec:
    """Where an enhancer lives.

    Args:
        target: ``"module:Class"``, or ``"module:Class.factory"``; called without arguments.
        install: the command that installs what it needs.
        licence: licence of its weights.
        description: one line for ``--help``.
    """

    target: str
    install: str
    licence: str
    description: str


SPECS: dict[str, EnhancerSpec] = {
    "none": EnhancerSpec(
        "harmonizer_ns.enhancers.identity:IdentityEnhancer",
        "pip install harmonizer-ns",
        "Apache-2.0",
        "leaves every frame as it is",
    ),
    "builtin": EnhancerSpec(
        "harmonizer_ns.enhancers.builtin:BuiltinEnhancer.from_pretrained",
        "pip install harmonizer-ns",
        "Apache-2.0",
        "chooses per pixel between the render and warped photos; small, runs on a CPU",
    ),
}


def load_enhancer(name_or_path: str | Path, device: torch.device | str = "cpu") -> Enhancer:
    """The enhancer of that name, or the one stored in that checkpoint folder, on ``device``.

    Raises:
        ValueError: when it is neither a known name nor a folder; the message lists the names.
        ImportError: when a package that it needs is missing; the message holds the install line.
        CheckpointError: when the folder is not a good checkpoint.
    """
    spec = SPECS.get(str(name_or_path))
    if spec is not None:
        enhancer = _resolve(spec)()
    elif Path(name_or_path).is_dir():
        from harmonizer_ns.enhancers.builtin import BuiltinEnhancer

        enhancer = BuiltinEnhancer.from_pretrained(name_or_path)
    else:
        raise ValueError(
            f"unknown enhancer {str(name_or_path)!r}: known names are {', '.join(SPECS)}; "
            "or give the folder of a checkpoint"
        )
    return enhancer.to(device) if hasattr(enhancer, "to") else enhancer


def _resolve(spec: EnhancerSpec) -> Any:
    module, _, attributes = spec.target.partition(":")
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}; install it with: {spec.install}") from error
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found
