# SPDX-License-Identifier: Apache-2.0
"""Repositories of the Hugging Face Hub: only files that are asked for are fetched, and nothing in them is ever run."""

from __future__ import annotations

import re
from pathlib import Path

from harmonizer_ns.errors import InputError

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def fetch_repository(repository: str, revision: str | None, patterns: list[str]) -> Path:
    """The folder of a Hub repository, from the Hub or from its cache; only files that match a pattern.

    Raises:
        InputError: when the name is none, and when the Hub cannot be reached or has no such repository or revision.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(f"{repository!r} is neither a folder nor a repository of the Hugging Face Hub (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (OSError, HfHubHTTPError) as error:
        raise InputError(
            f"{repository} is no folder here and cannot be fetched from the Hugging Face Hub ({first_line(error)}); "
            "where there is no network, download it elsewhere (hf download) and give the folder"
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, without the lines that follow."""
    return str(error).strip().partition("\n")[0]
