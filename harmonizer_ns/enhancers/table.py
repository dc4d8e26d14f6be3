# SPDX-License-Identifier: Apache-2.0
"""The table of enhancers: their names, licences, and where their weights are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EnhancerSpec:
    """An enhancer with weights of its own.

    Args:
        architecture: of its network; empty for the one that leaves frames alone.
        licence: of its weights.
        description: one line for ``--help``.
        repository: where on the Hugging Face Hub its weights are; empty: they are part of the project.
        file: the checkpoint among the repository's files; empty: the repository is a folder that the enhancer reads.
        max_references: photos that it was trained with.
        max_context: previous outputs that it was trained with.
        install: the command that installs what it needs.
    """

    architecture: str
    licence: str
    description: str
    repository: str = ""
    file: str = ""
    max_references: int = 0
    max_context: int = 0
    install: str = "pip install harmonizer-ns"


SPECS: dict[str, EnhancerSpec] = {
    "none": EnhancerSpec("", "Apache-2.0", "leaves every frame as it is"),
    "builtin": EnhancerSpec(
        "choice-smooth",
        "Apache-2.0",
        "chooses per pixel between the render and warped photos; small, runs on a CPU",
        max_references=3,
        max_context=1,
    ),
    "difix": EnhancerSpec(
        "difix",
        "NVIDIA License, non-commercial use only",
        "Difix: one step of SD-Turbo on single frames; wants a GPU",
        "nvidia/difix",
    ),
    "difix-ref": EnhancerSpec(
        "difix",
        "NVIDIA License, non-commercial use only",
        "Difix that also looks at a reference photo",
        "nvidia/difix_ref",
        max_references=1,
    ),
    "fixer": EnhancerSpec(
        "cosmos",
        "NVIDIA Open Model License",
        "Fixer: one step of Cosmos 0.6B on single frames; wants a GPU",
        "nvidia/Fixer",
        "pretrained_fixer.pkl",
    ),
    "harmonizer": EnhancerSpec(
        "cosmos",
        "NVIDIA Open Model License",
        "Harmonizer: as Fixer, and sees its own last four outputs",
        "nvidia/Harmonizer",
        "diffusion_harmonizer.pkl",
        max_context=4,
    ),
}
HUB_INDEX = "model_index.json"
"""Names the parts of a folder in diffusers' layout."""


def spec_of(repository: str) -> EnhancerSpec | None:
    """The enhancer in the table whose weights are in that repository."""
    return next((spec for spec in SPECS.values() if spec.repository and spec.repository == repository), None)
