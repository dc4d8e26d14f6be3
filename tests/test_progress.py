# SPDX-License-Identifier: Apache-2.0
"""Long work on a terminal and in a log file, with a clock of our own."""

import io
import re
from itertools import pairwise

import pytest
from nerfstudio.configs.base_config import LocalWriterConfig
from nerfstudio.utils import writer
from rich.console import Console

from harmonizer_ns import progress
from harmonizer_ns.plugin.terminal import StepLines
from harmonizer_ns.progress import LONGEST, SHORTEST, Counts, StepBar, counted, counts_shown, duration, listening, told


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def run(console, clock, steps, seconds, first=0) -> list[tuple[float, str]]:
    """The lines of a run, and when each appeared."""
    lines, length = [], 0
    with StepBar(console, first, steps) as bar:
        for done in range(first + 1, steps + 1):
            clock.now += seconds / (steps - first)
            bar.advance(done, lambda done=done: {"loss": 1 / done, "splats": 1000 + done})
            written = console.file.getvalue()
            if len(written) > length:
                lines.append((clock.now, written[length:].rstrip()))
                length = len(written)
    return lines


@pytest.mark.parametrize(("steps", "seconds"), [(1500, 540), (30_000, 600), (30_000, 36_000), (400, 90), (30, 6)])
def test_a_log_file_gets_a_line_now_and_then(clock, steps, seconds):
    lines = run(Console(file=io.StringIO()), clock, steps, seconds)
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(lines)]
    assert len(lines) <= min(20 + seconds / LONGEST, seconds / SHORTEST)
    assert all(SHORTEST <= gap <= max(LONGEST, SHORTEST) + 2 for gap in gaps)
    assert len(lines) >= min(15, seconds // SHORTEST - 1)
    for moment, line in lines:
        done = round(steps * moment / seconds)
        wanted = (
            rf"Step {done} of {steps} \(\d+%\): loss [\d.e-]+, splats {1000 + done:,}, [\d.]+ steps/s, about .* left"
        )
        assert re.fullmatch(wanted, line), line


def test_the_rest_of_a_resumed_run_is_reckoned_from_its_own_steps(clock):
    lines = run(Console(file=io.StringIO()), clock, 1000, 100, first=900)
    assert lines[0][1].startswith("Step 910 of 1000 (91%)")
    assert lines[0][1].endswith("1 steps/s, about 90 s left")


def test_a_terminal_gets_a_bar_with_figures_and_a_second_one_for_rounds(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with StepBar(console, 0, 40) as bar:
        clock.now = 10.0
        bar.advance(20, lambda: {"loss": 0.04312, "splats": 12345})
        bar.advance(21, lambda: 1 / 0)  # too soon: figures are not asked for
        assert list(bar.over([5, 6], "views repaired at step 21")) == [5, 6]
        console.print("a line above the bar")
        shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", console.file.getvalue())
    assert re.search(r"steps .* 20/40 loss 0\.0431, splats 12,345, 2 steps/s ETA [\d:-]+", shown)
    assert "a line above the bar" in shown


def test_what_is_counted_is_told_to_who_listens_and_otherwise_passes(clock):
    lines = []
    assert list(counted([3, 4], "views")) == [3, 4]
    with listening(Counts(lines.append, "sparse/0_00")):
        for step in counted(range(100), "steps of a fit"):
            clock.now += 3 if step else 0
        for _ in counted("abcd", "views"):
            clock.now += 11
    list(counted([0] * 9, "views"))
    assert lines[0] == "sparse/0_00: 5 of 100 steps of a fit, about 5 min left"
    assert 15 <= sum("steps" in line for line in lines) <= 20
    views = [line.partition(", about ")[::2] for line in lines if " views" in line]
    assert views == [("sparse/0_00: 2 of 4 views", "22 s left"), ("sparse/0_00: 3 of 4 views", "11 s left")]
    with pytest.raises(ZeroDivisionError), listening(Counts(lines.append, "x")):
        raise ZeroDivisionError
    assert progress._listener.get() is None


def test_what_is_counted_is_a_bar_with_the_time_that_is_left_or_lines(clock):
    terminal, log = Console(file=io.StringIO(), force_terminal=True, width=100), Console(file=io.StringIO())
    for console in (terminal, log):
        with counts_shown(console):
            for _ in counted(range(20), "views rendered"):
                clock.now += 30
                for _ in counted("ab", "photos"):
                    clock.now += 1
                if console is terminal:
                    console.print("a line above the bars")
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.file.getvalue())
    assert re.search(r"views rendered .* \d+/20 ETA [\d:-]+", shown)
    assert "a line above the bars" in shown
    lines = [line for line in log.file.getvalue().splitlines() if "views" in line]
    assert lines[0] == "2 of 20 views rendered, about 10 min left"


def test_nerfstudio_writes_lines_where_it_cannot_redraw_its_table(clock, monkeypatch, capsys):
    monkeypatch.setattr("harmonizer_ns.plugin.terminal.time", clock)
    monkeypatch.setattr(writer, "GLOBAL_BUFFER", {"max_iter": 2000, "steps_per_log": 10, "events": {}})
    lines = StepLines(LocalWriterConfig(enable=True), ["the viewer's address"])
    assert capsys.readouterr().out == "the viewer's address\n"
    for step in range(2000):
        clock.now += 0.2
        events = [("Train Loss", 0.25), ("Train Metrics Dict", {"gaussian_count": 3000 + step})]
        events = [{"name": name, "event": event, "step": step} for name, event in events]
        monkeypatch.setattr(writer, "EVENT_STORAGE", events if step % 10 == 0 else events[:0])
        lines.write_stats_log(step)
    written = capsys.readouterr().out.splitlines()
    assert 15 <= len(written) <= 20
    assert written[0] == "Step 101 of 2000 (5%): loss 0.25, splats 3,100, 5 steps/s, about 6 min left"


def test_figures_and_times_read_well():
    assert told(0, 10, 0.0, {}) == "Step 0 of 10 (0%): 0 steps/s"
    assert [duration(seconds) for seconds in (3, 99, 720, 12_000)] == ["3 s", "99 s", "12 min", "3.3 h"]
