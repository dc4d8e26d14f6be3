# SPDX-License-Identifier: Apache-2.0
"""What nerfstudio says of a run: its redrawn table on a terminal, and elsewhere a line now and then."""

from __future__ import annotations

import time
from typing import Any

from nerfstudio.utils import writer
from nerfstudio.utils.decorators import check_main_thread, decorate_all
from nerfstudio.utils.rich_utils import CONSOLE
from rich import box
from rich.table import Table

from harmonizer_ns.progress import Pace, told

_FIGURES = {"Train Loss": "loss", "Train Metrics Dict": "splats"}


@decorate_all([check_main_thread])
class StepLines(writer.LocalWriter):
    """Writes a line at a time: what upstream redraws every ten steps fills a log file."""

    def __init__(self, config: Any, banner_messages: list[str] | None = None) -> None:
        super().__init__(config, banner_messages)
        self._pace, self._first, self._start = Pace(), -1, 0.0
        if banner_messages and not CONSOLE.is_terminal:
            print(*banner_messages, sep="\n", flush=True)  # the viewer's address

    def write_stats_log(self, step: int) -> None:
        """Tell where training is, if it is time to."""
        if CONSOLE.is_terminal:
            super().write_stats_log(step)
            return
        if step >= writer.GLOBAL_BUFFER["max_iter"]:  # upstream's total time, after the last step
            return
        if self._first < 0:
            self._first, self._start = step, time.monotonic()
        total, done = writer.GLOBAL_BUFFER["max_iter"], step - self._first
        if step % writer.GLOBAL_BUFFER["steps_per_log"] == 0 and self._pace.due(done / (total - self._first)):
            rate = done / (time.monotonic() - self._start)
            print(told(step + 1, total, rate, _figures()), flush=True)


def _figures() -> dict[str, float]:
    """The loss, and the number of splats where the model has any, as they were stored in this step."""
    stored = {event["name"]: event["event"] for event in writer.EVENT_STORAGE}
    figures = {"loss": float(stored["Train Loss"])} if "Train Loss" in stored else {}
    splats = stored.get("Train Metrics Dict", {}).get("gaussian_count")
    return figures if splats is None else {**figures, "splats": int(splats)}


def print_settings(settings: dict[str, Any]) -> None:
    """Print what a user asks about a run first; all settings are in its config.yml."""
    table = Table(box=box.SIMPLE, show_header=False)
    for name, value in settings.items():
        table.add_row(name, str(value))
    CONSOLE.print(table)
