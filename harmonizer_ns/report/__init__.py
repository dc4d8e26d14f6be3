# SPDX-License-Identifier: Apache-2.0
"""What a command or a training run found is told on one page that opens from disk, and in JSON and Markdown beside it.

It knows nothing of scenes and methods: whoever measured fills in a `Report`, and `write_report` shows it.
"""

from harmonizer_ns.report.content import CameraMap, Cell, Plot, Report, Spread, Table, View, heading
from harmonizer_ns.report.writer import write_report

__all__ = ["CameraMap", "Cell", "Plot", "Report", "Spread", "Table", "View", "heading", "write_report"]
