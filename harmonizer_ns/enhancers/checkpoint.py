# SPDX-License-Identifier: Apache-2.0
"""Our checkpoint folders: ``config.json`` and one safetensors file. Reading one never runs code from it.

``config.json`` holds ``format`` (always ``"harmonizer-enhancer"``), ``version``, ``architecture``, ``kwargs`` of the
architecture, ``weights`` (name of the weights file, in the same folder), its ``sha256``, and free ``metadata``
(data, licence, training).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialize_tensors
from torch import Tensor, nn

from harmonizer_ns.errors import InputError

FORMAT = "harmonizer-enhancer"
VERSION = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_FIELDS = {"architecture": str, "kwargs": dict, "weights": str, "sha256": str, "metadata": dict}


class CheckpointError(InputError):
    """A folder that is not a good checkpoint; the message says which file is wrong, and how."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint folder.

    Args:
        architecture: name of the network.
        kwargs: arguments of its constructor, JSON values.
        weights: its state.
        metadata: data, licence, training; JSON values.
    """

    architecture: str
    kwargs: dict[str, Any]
    weights: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(folder: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint. Interrupted at any moment, the one that was there before still loads.

    New weights get a file name of their own; the configuration, which names them, is then replaced in one step, and
    only afterwards the older weights go. Other files in the folder (a model card) stay.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = serialize_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()})
    digest = hashlib.sha256(data).hexdigest()
    name = f"model-{digest[:12]}.safetensors" if (folder / WEIGHTS).exists() else WEIGHTS
    config = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": checkpoint.architecture,
        "kwargs": checkpoint.kwargs,
        "weights": name,
        "sha256": digest,
        "metadata": checkpoint.metadata,
    }
    text = json.dumps(config, indent=2) + "\n"
    _write_atomically(folder / name, data)
    _write_atomically(folder / CONFIG, text.encode())
    for old in {folder / WEIGHTS, *folder.glob("model-*.safetensors")} - {folder / name}:
        old.unlink(missing_ok=True)


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read and verify a checkpoint folder; tensors come to the CPU.

    Raises:
        CheckpointError: on a missing file, another format or version, a wrong field, a hash mismatch or a broken
            weights file.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    path = folder / config["weights"]
    data = _read_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != config["sha256"]:
        raise CheckpointError(
            f"{path} does not match its configuration: sha256 is {digest}, {CONFIG} says {config['sha256']}; "
            "it is truncated, damaged or from another checkpoint"
        )
    try:
        weights = parse_tensors(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
    return Checkpoint(config["architecture"], config["kwargs"], weights, config["metadata"])


def load_weights(module: nn.Module, weights: dict[str, Tensor], assign: bool = False) -> None:
    """Fill a module; every name and shape must fit.

    Args:
        module: what to fill.
        weights: its state.
        assign: put the tensors themselves in the module's place (which may be on the meta device), in their precision.

    Raises:
        CheckpointError: naming the missing, unexpected or misshapen entries.
    """
    own = module.state_dict()
    wrong = {
        "missing": sorted(own.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - own.keys()),
        "misshapen": sorted(n for n in own.keys() & weights.keys() if own[n].shape != weights[n].shape),
    }
    if any(wrong.values()):
        report = "; ".join(f"{kind}: {_shortened(names)}" for kind, names in wrong.items() if names)
        raise CheckpointError(f"weights do not fit {type(module).__name__}: {report}")
    module.load_state_dict(weights, strict=True, assign=assign)


def _shortened(names: list[str], limit: int = 5) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint file {path} is missing") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(_read_bytes(path))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise CheckpointError(f"{path} is not a {FORMAT} configuration (its format is {found!r})")
    if config.get("version") != VERSION:
        raise CheckpointError(f"{path} has version {config.get('version')!r}, this release reads {VERSION}")
    for name, kind in _FIELDS.items():
        if not isinstance(config.get(name), kind):
            raise CheckpointError(f"{path}: {name!r} should be a {kind.__name__}, it is {config.get(name)!r}")
    if Path(config["weights"]).name != config["weights"] or not config["weights"].endswith(".safetensors"):
        raise CheckpointError(f"{path}: 'weights' should name a safetensors file beside it, not {config['weights']!r}")
    return config


def _write_atomically(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
