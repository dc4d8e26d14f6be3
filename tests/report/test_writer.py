# SPDX-License-Identifier: Apache-2.0
import json

import torch

from harmonizer_ns.report import Report, Spread, Table, View, heading, write_report


def test_the_three_files_are_written(tmp_path):
    table = Table("Held-out", ("image", heading("PSNR", "higher")), (("plain", 20.0), ("ours", Spread(21.0, 0.1))))
    view = View("0", {"plain": torch.rand(3, 4, 6)}, {heading("PSNR", "higher", "plain"): float("nan")}, 0.0)
    page = write_report(tmp_path / "new", Report("Demo", ("Better.",), (table,), views=(view,)))
    assert page.is_file()
    told = json.loads((page.parent / "report.json").read_text())
    assert told["tables"][0]["rows"][1] == ["ours", {"mean": 21.0, "deviation": 0.1}]
    assert told["views"][0]["scores"] == {"PSNR ↑ plain": None}
