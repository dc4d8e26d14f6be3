# SPDX-License-Identifier: Apache-2.0
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FLOOR = Path(__file__).parent.parent / ".ci" / "floor.py"


def check(tmp_path, rgb, enhanced, plain) -> subprocess.CompletedProcess:
    rows = zip(
        ("harmonize: rgb", "harmonize: rgb_enhanced", "plain baseline: rgb"), (rgb, enhanced, plain), strict=True
    )
    report = tmp_path / "harmonize_report.json"
    report.write_text(json.dumps({"held_out": {name: {"psnr": psnr, "ssim": 0.7} for name, psnr in rows}}))
    return subprocess.run([sys.executable, FLOOR, report], capture_output=True, text=True)


@pytest.mark.parametrize("psnr", [(24.9, 24.9, 24.6), (24.57, 24.53, 24.6)])
def test_a_gain_or_what_processors_differ_by_passes(tmp_path, psnr):
    assert check(tmp_path, *psnr).returncode == 0


@pytest.mark.parametrize(
    ("psnr", "words"),
    [
        ((24.5, 24.9, 24.6), ["the method costs 0.10 dB"]),
        ((24.9, 24.8, 24.6), ["the enhancer costs 0.10 dB"]),
        ((24.5, 24.4, 24.6), ["the method", "the enhancer"]),
        ((float("nan"), 24.9, 24.6), ["the method", "the enhancer"]),
    ],
)
def test_what_became_worse_is_named(tmp_path, psnr, words):
    result = check(tmp_path, *psnr)
    assert result.returncode == 1
    assert all(word in line for word, line in zip(words, result.stderr.splitlines(), strict=True))


def test_the_floor_knows_the_rows_of_the_report(tmp_path):
    import harmonizer_ns.plugin.trainer  # noqa: F401 (nerfstudio's own circle of imports wants this order)
    from harmonizer_ns.plugin.report import print_report

    metrics = {"psnr": 24.9, "ssim": 0.7, "psnr_enhanced": 24.9, "ssim_enhanced": 0.7}
    print_report(tmp_path / "report.json", metrics, metrics, {"targets": 1, "pseudo_views": 1})
    held_out = json.loads((tmp_path / "report.json").read_text())["held_out"]
    assert runpy.run_path(str(FLOOR))["failures"](held_out) == []
