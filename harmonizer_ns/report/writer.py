# SPDX-License-Identifier: Apache-2.0
"""A report is written: one page, JSON, Markdown."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from harmonizer_ns.files import write_json, written_whole
from harmonizer_ns.report.content import Report, Spread
from harmonizer_ns.report.markdown import markdown
from harmonizer_ns.report.page import page


def write_report(folder: Path, report: Report) -> Path:
    """Write ``report.html``, which needs no other file and no network, ``report.json`` and ``report.md``.

    Args:
        folder: is created; reports that are there are replaced.
        report: what they tell.

    Returns:
        The path of the page.

    Raises:
        InputError: when a file cannot be written, or a picture cannot be read.
    """
    told = plain(report)
    pages = {"report.md": markdown(report, told["settings"]), "report.html": page(report, told["settings"])}
    write_json(folder / "report.json", told)
    for name, text in pages.items():
        with written_whole(folder / name) as partial:
            partial.write_text(text, encoding="utf-8", errors="replace")  # file names need not be Unicode
    return folder / "report.html"


def plain(value: Any) -> Any:
    """Give a value as JSON can hold it: pictures as sizes, numbers that are not finite as None, the rest as text."""
    if isinstance(value, Spread):
        return {"mean": plain(value.mean), "deviation": plain(value.deviation)}
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {str(name): plain(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [plain(held) for held in value]
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return list(value.shape) if value.ndim == 3 else plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)
