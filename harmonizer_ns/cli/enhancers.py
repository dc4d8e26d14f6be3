# SPDX-License-Identifier: Apache-2.0
"""``harmonizer enhancers``: which enhancers there are, what installs them, and the licences of their weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harmonizer_ns.cli.parsing import read_options
from harmonizer_ns.enhancers.table import SPECS, EnhancerSpec

EXAMPLES = """
harmonizer enhancers
"""


@dataclass(frozen=True)
class EnhancersConfig:
    """List the enhancers by name; a checkpoint's folder works wherever a name does."""


parse = partial(read_options, EnhancersConfig, "enhancers", EXAMPLES)


def main(config: EnhancersConfig) -> None:
    """Print one paragraph for each enhancer."""
    for name, spec in SPECS.items():
        lines = spec.description, f"install: {spec.install}", f"weights: {where(spec)}", f"licence: {spec.licence}"
        print(f"{name}: " + "\n    ".join(lines))


def where(spec: EnhancerSpec) -> str:
    """Tell where an enhancer's weights are, or will come from; the network is not asked."""
    if not spec.repository:
        return "part of the project"
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    cached = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=spec.repository, repo_type="model") / "snapshots"
    if cached.is_dir():
        return f"{spec.repository}, on this machine: {cached.parent}"
    return f"{spec.repository}, downloaded from the Hugging Face Hub when first used"
