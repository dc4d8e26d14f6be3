# SPDX-License-Identifier: Apache-2.0
"""``harmonizer convert CHECKPOINT OUTPUT``: a checkpoint of Fixer, Harmonizer or Difix to a safe enhancer folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from harmonizer_ns.cli.parsing import read_options
from harmonizer_ns.enhancers.table import SPECS
from harmonizer_ns.files import read_json

EXAMPLES = """
harmonizer convert diffusion_harmonizer.pkl my-folder
harmonizer convert harmonizer_nontemporal.pt my-folder
harmonizer convert fixer.pkl my-fixer --kind fixer
harmonizer convert model_10001.pkl my-difix --kind difix --base stabilityai/sd-turbo
"""


@dataclass(frozen=True)
class ConvertConfig:
    """Turn a checkpoint (.pkl, .pt) of Fixer, Harmonizer or Difix into a folder that every --enhancer option takes."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """For example diffusion_harmonizer.pkl. Only tensors are read from it, nothing in it can run."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """The folder to write: config.json and safetensors."""
    kind: Literal["harmonizer", "fixer", "difix"] = "harmonizer"
    """harmonizer looks at its last four outputs, or at none where the file's name says nontemporal; fixer at single
    frames; difix is what Difix's training code writes."""
    base: str = "stabilityai/sd-turbo"
    """For difix: folder or Hub repository with the frozen parts that its checkpoint lacks, SD-Turbo or Difix."""
    config: Path | None = None
    """Architecture (JSON, as in configs/) of a network of another size; --kind is not looked at then."""


parse = partial(read_options, ConvertConfig, "convert", EXAMPLES)


def main(config: ConvertConfig) -> None:
    """Read, check every name, write."""
    (_convert_difix if config.kind == "difix" else _convert_cosmos)(config)


def _convert_difix(config: ConvertConfig) -> None:
    from harmonizer_ns.enhancers.difix import DifixEnhancer

    DifixEnhancer.from_pretrained(config.base, checkpoint=config.checkpoint).save(config.output)
    print(f"{config.output}: Difix, adapters merged")


def _convert_cosmos(config: ConvertConfig) -> None:
    from harmonizer_ns.enhancers.checkpoint import read_states, save_checkpoint
    from harmonizer_ns.enhancers.cosmos.formats import LICENCE, convert, release_config

    release = SPECS[config.kind], config.checkpoint.name
    architecture = release_config(*release) if config.config is None else read_json(config.config)
    checkpoint, ignored = convert(read_states(config.checkpoint), architecture, config.checkpoint.name)
    save_checkpoint(config.output, checkpoint)
    print(f"{config.output}: {len(checkpoint.weights)} tensors, {len(ignored)} entries were not needed")
    print(f"Weights released by NVIDIA are under the {LICENCE}.")
