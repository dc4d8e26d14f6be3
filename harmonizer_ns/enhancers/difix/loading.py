# SPDX-License-Identifier: Apache-2.0
"""Where a Difix network comes from: our own folders, the Hub's layout, a checkpoint of its training code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harmonizer_ns.enhancers.checkpoint import CONFIG, CheckpointError, load_checkpoint, load_weights
from harmonizer_ns.enhancers.difix.formats import find_folder, read_checkpoint, read_folder
from harmonizer_ns.enhancers.difix.network import DifixNetwork
from harmonizer_ns.errors import InputError

LICENCE = "that of their origin (nvidia/difix and nvidia/difix_ref: NVIDIA License, non-commercial use only)"
REFERENCES = {"nvidia/difix": 0, "nvidia/difix_ref": 1}
"""Photos that the released networks were trained with."""


def load_network(
    folder_or_id: str | Path, revision: str | None, checkpoint: str | Path | None, prompt: str, merge: bool
) -> tuple[DifixNetwork, dict[str, Any]]:
    """A network and what is known about its weights; arguments and errors as `DifixEnhancer.from_pretrained`."""
    folder = find_folder(folder_or_id, revision)
    if checkpoint is not None:
        return read_checkpoint(Path(checkpoint), folder, prompt, merge), _origin(checkpoint)
    if (folder / CONFIG).is_file():
        return _read_own(folder)
    trained_with = REFERENCES.get(str(folder_or_id), 1)
    return read_folder(folder, prompt, merge, max_references=trained_with), _origin(folder_or_id)


def _read_own(folder: Path) -> tuple[DifixNetwork, dict[str, Any]]:
    stored = load_checkpoint(folder)
    try:
        with torch.device("meta"):
            network = DifixNetwork.from_config({"architecture": stored.architecture, **stored.kwargs})
    except InputError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    load_weights(network, stored.weights, assign=True)
    return network, stored.metadata


def _origin(source: str | Path) -> dict[str, Any]:
    return {"licence": LICENCE, "source": str(source)}
