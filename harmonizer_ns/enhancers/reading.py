# SPDX-License-Identifier: Apache-2.0
"""Reading other projects' files. Nothing in them is ever run; messages name the file."""

from __future__ import annotations

import io
import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from harmonizer_ns.enhancers.checkpoint import CheckpointError
from harmonizer_ns.files import first_line


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        CheckpointError: when it is missing or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} should hold an object, it holds a {type(content).__name__}")
    return content


def read_pickle(path: Path) -> Any:
    """A file that ``torch.save`` wrote, tensors mapped from the disk; only tensors and plain data are read.

    Raises:
        CheckpointError: when there is no such file, when it is damaged, and when it holds more than plain data.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    try:
        with torch.serialization.safe_globals([io.BytesIO]), warnings.catch_warnings():
            # Transformer Engine keeps its state in BytesIO; whatever torch would warn about, it then refuses.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))  # torch goes on to advise loading it without protection
        what = f"it holds more than plain data: {found[1]}" if found else "it is not plain data that torch has saved"
        raise CheckpointError(f"{path} was refused, {what}") from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise CheckpointError(f"{path} is not a whole torch checkpoint: {first_line(error)}") from error


def read_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """Weights as diffusers and transformers keep them: ``name.safetensors`` or ``name.bin``, in one file or several.

    Raises:
        CheckpointError: when there are none, or a file is damaged or refused.
    """
    for suffix in ("safetensors", "bin"):
        index = folder / f"{name}.{suffix}.index.json"
        files = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else [f"{name}.{suffix}"]
        if index.is_file() or (folder / files[0]).is_file():
            return {key: value for file in files for key, value in _read_file(folder / Path(file).name).items()}
    raise CheckpointError(f"{folder} has no weights: neither {name}.safetensors nor {name}.bin")


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".bin":
        return read_pickle(path)
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {first_line(error)}") from error
