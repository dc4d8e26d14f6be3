# SPDX-License-Identifier: Apache-2.0
import math

import pytest

from harmonizer_ns.report import Spread, Table, heading
from harmonizer_ns.report.figures import shown


def column(name, *cells):
    """The cells of one column, as they are shown."""
    return [row[1] for row in shown(Table("", ("", name), tuple(("row", cell) for cell in cells)))]


@pytest.mark.parametrize(
    ("name", "cells", "texts"),
    [
        ("PSNR ↑", (20, 21.456), ("20.00", "21.46")),
        ("good-half PSNR", (34.734,), ("34.73",)),
        ("MS-SSIM ↑ plain", (0.91234,), ("0.912",)),
        ("LPIPS ↓", (0.1, None, math.nan, math.inf), ("0.100", "-", "nan", "inf")),
        ("FID ↓", (45.678,), ("45.7",)),
        ("steps", (1000, 30000), ("1,000", "30,000")),
        ("seconds", (0.01234, 0.5), ("0.0123", "0.5000")),
        ("warp error", (11.7, 28.05), ("11.70", "28.05")),
        ("memory in MB", (12345.6,), ("12,346",)),
        ("nothing", (0.0, 0.0), ("0", "0")),
        ("gain PSNR ↑", (0.917, -0.25, 0.0), ("+0.92", "-0.25", "+0.00")),
        ("change", (0.01234,), ("+0.012",)),
        ("PSNR ↑", (Spread(26.687, 0.1234), "1<2"), ("26.69 ± 0.12", "1<2")),
    ],
)
def test_figures_have_the_digits_of_their_measure(name, cells, texts):
    assert tuple(cell.text for cell in column(name, *cells)) == texts


@pytest.mark.parametrize(
    ("name", "cells", "best"),
    [
        ("PSNR ↑", (20.0, 21.0, None, math.nan), (False, True, False, False)),
        ("LPIPS ↓", (0.2, 0.1, 0.1), (False, True, True)),
        ("PSNR ↑", (20.001, 20.0), (False, False)),  # alike as they are shown
        ("PSNR", (20.0, 21.0), (False, False)),
        ("PSNR ↑", (Spread(20.0, 3.0), 19.0), (True, False)),
        ("PSNR ↑", (-math.inf, 19.0, 18.0), (False, True, False)),
        ("PSNR ↑", (19.0, None), (False, False)),
    ],
)
def test_the_best_of_a_column_is_marked(name, cells, best):
    assert tuple(cell.best for cell in column(name, *cells)) == best


def test_where_a_measure_has_several_columns_the_best_of_each_row_is_marked():
    names = ("scene", heading("PSNR", "higher", "plain"), heading("PSNR", "higher", "enhanced"), "PSNR", "LPIPS ↓")
    rows = shown(Table("", names, (("fern", 26.0, 27.0, 99.0, 0.2), ("cafe", 29.0, 28.0, 99.0, 0.1))))
    assert [[cell.text for cell in row if cell.best] for row in rows] == [["27.00"], ["29.00", "0.100"]]


def test_a_column_that_does_not_tell_of_what_it_is_compares_its_rows():
    names = ("repairs", heading("PSNR", "higher"), heading("PSNR", "higher", "of the repair"))
    rows = shown(Table("", names, (("perfect", 28.9, 99.0), ("soft", 27.0, 28.0), ("none", 29.5, None))))
    assert [[cell.text for cell in row if cell.best] for row in rows] == [["99.00"], [], ["29.50"]]


def test_rows_can_name_measures():
    rows = shown(Table("", ("measure", "plain", "ours"), (("PSNR ↑", 20.0, 21.0), ("LPIPS ↓", 0.1, 0.25))))
    assert [cell.text for cell in rows[0]] == ["PSNR ↑", "20.00", "21.00"]
    assert [cell.text for cell in rows[1]] == ["LPIPS ↓", "0.100", "0.250"]
    assert [[cell.best for cell in row[1:]] for row in rows] == [[False, True], [True, False]]


def test_rows_that_name_measures_have_changes_too():
    rows = shown(Table("", ("measure", "plain", "ours", "gain"), (("LPIPS ↓", 0.155, 0.154, -0.001),)))
    assert [cell.text for cell in rows[0]] == ["LPIPS ↓", "0.155", "0.154", "-0.001"]
    assert [cell.best for cell in rows[0]] == [False, False, True, False]
    assert rows[0][3].tone == "better"


def test_words_are_told_from_figures():
    assert [cell.words for cell in column("why", "not available", "100%", "-0.5 dB", None, 1.0)] == [True, *[False] * 4]


@pytest.mark.parametrize(
    ("name", "value", "tone"),
    [("gain ↑", 0.5, "better"), ("gain ↑", -0.5, "worse"), ("change of LPIPS ↓", 0.1, "worse"), ("change", 1.5, "")],
)
def test_changes_tell_whether_they_are_better(name, value, tone):
    assert column(name, value)[0].tone == tone


def test_what_rounds_to_nothing_is_neither_better_nor_worse():
    assert column("gain in dB ↑", 0.004)[0].tone == ""


def test_rows_have_a_cell_for_each_column():
    with pytest.raises(ValueError, match="2 cells for 3 columns"):
        Table("Scores", ("a", "b", "c"), (("x", 1.0),))
