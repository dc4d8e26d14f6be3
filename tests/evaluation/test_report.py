# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from harmonizer_ns.evaluation.report import SceneResult, average, judge, sentence, table, write_report

FIRST = SceneResult("first", 4, 20.0, 21.0, 0.7, 0.8, 30.0, 30.2, 10.0)
SECOND = SceneResult("second", 12, 24.0, 24.5, 0.9, 0.9, 40.0, 39.7, 20.0)


def test_every_scene_counts_once():
    mean = average([FIRST, SECOND])
    assert (mean.views, mean.psnr_render, mean.psnr_enhanced, mean.fps) == (16, 22.0, 22.75, 15.0)
    assert mean.lpips_render is None


@pytest.mark.parametrize(
    ("enhanced", "good_after", "passed"),
    [(24.5, 39.7, True), (22.9, 39.7, False), (24.5, 39.5, False)],
)
def test_the_verdict_asks_for_gain_without_harm(enhanced, good_after, passed):
    verdict = judge([FIRST, replace(SECOND, psnr_enhanced=enhanced, good_after=good_after)])
    assert verdict.passed is passed
    assert ("PASS" if passed else "FAIL") in sentence(verdict)


def test_the_table_shows_every_scene_and_the_average():
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table([FIRST, replace(SECOND, lpips_render=0.2, lpips_enhanced=0.1)], "title"))
    text = console.export_text()
    assert "LPIPS" not in text  # one scene has none
    for expected in ("first", "second", "average", "22.00 -> 22.75", "+0.75", "-0.05"):
        assert expected in text


def test_json_holds_scenes_average_verdict_and_protocol(tmp_path):
    write_report(tmp_path / "deep/report.json", [FIRST, SECOND], {"every": 4})
    content = json.loads((tmp_path / "deep/report.json").read_text())
    assert content["protocol"] == {"every": 4}
    assert [scene["scene"] for scene in content["scenes"]] == ["first", "second"]
    assert content["verdict"]["passed"] is True
    assert content["verdict"]["gain"] == pytest.approx(0.75)


def test_nothing_cannot_be_averaged():
    with pytest.raises(ValueError, match="no scenes"):
        average([])
