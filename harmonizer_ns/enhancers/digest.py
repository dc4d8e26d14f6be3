# SPDX-License-Identifier: Apache-2.0
"""Reports tell which weights an enhancer had."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harmonizer_ns.enhancers.table import SPECS, spec_of
from harmonizer_ns.files import asset, file_digest, find_folder

_SUFFIXES = (".safetensors", ".pkl", ".bin", ".pt")


def weights_digest(enhancer: str, fetch: bool = False) -> str | None:
    """Compute the sha256 over an enhancer's files and their names; None for one without weights.

    Args:
        enhancer: as `load_enhancer` takes it.
        fetch: download weights that are not on this machine; without, None stands for those too.

    Raises:
        InputError: when weights that should be fetched cannot be found.
    """
    spec = SPECS.get(enhancer) or spec_of(enhancer)
    if spec is not None and not spec.architecture:
        return None
    if spec is not None and not spec.repository:
        place = asset(enhancer)
    elif spec is None and Path(enhancer).exists():
        place = Path(enhancer)
    else:
        repository, file = (spec.repository, spec.file) if spec else (enhancer, "")
        place = find_folder(repository, [file or "*"]) if fetch else _cached(repository)
    if place is None:
        return None
    files = [place] if place.is_file() else sorted(filter(_counts, place.rglob("*")))
    return hashlib.sha256("".join(f"{file.name} {file_digest(file)}\n" for file in files).encode()).hexdigest()


def _cached(repository: str) -> Path | None:
    """What has been downloaded of a repository of the Hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _counts(file: Path) -> bool:
    return file.suffix in _SUFFIXES or file.name == "config.json"
