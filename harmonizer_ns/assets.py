# SPDX-License-Identifier: Apache-2.0
"""Find the small files that ship with the project: weights, example configurations."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """Folder or file of the asset ``name``, for example ``path("builtin")``.

    A source checkout (or an editable install) keeps assets in ``assets/`` beside the package; an installed wheel
    carries a copy inside the package, in ``_assets/``.

    Raises:
        FileNotFoundError: when neither place has it; the message names both.
    """
    candidates = (_PACKAGE / "_assets" / name, _PACKAGE.parent / "assets" / name)
    for candidate in candidates:
        if candidate.exists():
            return candidate
    places = " nor ".join(str(candidate) for candidate in candidates)
    raise FileNotFoundError(f"asset {name!r} is neither at {places}; is the installation complete?")
