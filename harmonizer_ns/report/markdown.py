# SPDX-License-Identifier: Apache-2.0
"""A report's sentences, tables and settings become Markdown."""

from __future__ import annotations

import json
import re
from typing import Any

from harmonizer_ns.report.content import Report, Table
from harmonizer_ns.report.figures import shown
from harmonizer_ns.report.views import all_scores, worst_first


def markdown(report: Report, settings: Any) -> str:
    """Tell a report without its pictures and curves.

    Args:
        report: what is told.
        settings: its settings as JSON can hold them.
    """
    tables = [*report.tables, *([all_scores(worst_first(report.views))] if report.views else [])]
    held = "".join(f"    {line}\n" for line in json.dumps(settings, indent=1, ensure_ascii=False).splitlines())
    return "\n".join(
        [
            f"# {escaped(report.title)}\n",
            *(f"{escaped(sentence)}\n" for sentence in report.summary),
            *(_table(table) for table in tables),
            f"## Settings\n\n{held}",
        ]
    )


def escaped(text: str) -> str:
    """Give text of any content as one line that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", " ".join(text.split()))


def _table(table: Table) -> str:
    rows = [[f"**{escaped(cell.text)}**" if cell.best else escaped(cell.text) for cell in row] for row in shown(table)]
    ruled = [[escaped(name) for name in table.columns], ["---"] * len(table.columns), *rows]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in ruled)
    note = f"\n{escaped(table.note)}\n" if table.note else ""
    return f"## {escaped(table.title)}\n\n{lines}\n{note}"
