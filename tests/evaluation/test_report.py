# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from harmonizer_ns.evaluation.page import gains_table, headline, scenes_table, write
from harmonizer_ns.evaluation.quality import MEASURES
from harmonizer_ns.evaluation.report import (
    SceneResult,
    ViewResult,
    average,
    content,
    judge,
    scene_result,
    sentence,
    table,
)
from harmonizer_ns.report import Report


def result(scene, views, psnr, ssim, good, fps):
    """Of a scene; pairs of plain and enhanced."""
    names = ("psnr", "ssim", "good_half_psnr")
    plain, enhanced = (dict(zip(names, values, strict=True)) for values in zip(psnr, ssim, good, strict=True))
    return SceneResult(scene, views, {"plain": plain, "enhanced": enhanced}, fps)


FIRST = result("first", 4, (20.0, 21.0), (0.7, 0.8), (30.0, 30.2), 10.0)
SECOND = result("second", 12, (24.0, 24.5), (0.9, 0.9), (40.0, 39.7), 20.0)


def with_enhanced(found, **scores):
    return replace(found, scores={**found.scores, "enhanced": {**found.scores["enhanced"], **scores}})


def test_every_scene_counts_once():
    mean = average([FIRST, SECOND])
    assert (mean.views, mean.score("psnr"), mean.score("psnr", "enhanced"), mean.fps) == (16, 22.0, 22.75, 15.0)
    assert mean.score("lpips_squeeze") is None
    assert average([FIRST, with_enhanced(SECOND, lpips_vgg=0.5)]).score("lpips_vgg", "enhanced") is None


@pytest.mark.parametrize(
    ("enhanced", "good_after", "passed"),
    [(24.5, 39.7, True), (22.9, 39.7, False), (24.5, 39.5, False)],
)
def test_the_verdict_asks_for_gain_without_harm(enhanced, good_after, passed):
    verdict = judge([FIRST, with_enhanced(SECOND, psnr=enhanced, good_half_psnr=good_after)])
    assert verdict.passed is passed
    assert ("PASS" if passed else "FAIL") in sentence(verdict)


def test_scenes_without_enhanced_pictures_do_not_enter_the_verdict():
    plain = replace(SECOND, scores={"plain": SECOND.scores["plain"]})
    assert judge([FIRST, plain]).gain == pytest.approx(1)
    assert judge([plain]) is None


def printed(*results):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(list(results), "title"))
    return console.export_text()


def test_the_table_shows_every_scene_and_the_average():
    text = printed(FIRST, SECOND)
    assert "LPIPS" not in text
    for expected in ("first", "second", "average", "22.00", "22.75 (+0.75)", "39.70 (-0.30)", "0.800 (+0.100)"):
        assert expected in text
    assert "average" not in printed(FIRST)


def test_a_view_without_a_value_does_not_count_and_the_first_one_not_for_the_speed():
    views = [ViewResult("0", "a", {"plain": {"psnr": 10.0, "sharpness": None}}, 9.0)]
    views += [ViewResult(str(i), "b", {"plain": {"psnr": 20.0, "sharpness": 0.5}}, 0.5) for i in (1, 2)]
    found = scene_result("scene", views)
    assert found.score("psnr") == pytest.approx(50 / 3)
    assert found.score("sharpness") == 0.5
    assert found.fps == pytest.approx(2)


def test_json_holds_scenes_average_verdict_and_protocol(tmp_path):
    data = content([FIRST, SECOND], {"every": 4})
    write(tmp_path / "deep", Report("title", ("first sentence",), data=data))
    read = json.loads((tmp_path / "deep/report.json").read_text())
    assert read["protocol"] == {"every": 4}
    assert [scene["scene"] for scene in read["scenes"]] == ["first", "second"]
    assert read["verdict"]["passed"] is True
    assert read["verdict"]["gain"] == pytest.approx(0.75)
    assert (read["average"]["good_before"], read["average"]["psnr_render"]) == (35.0, 22.0)
    assert read["title"] == "title"


def test_the_report_says_what_got_better_and_what_got_worse():
    mean = average([with_enhanced(FIRST, ssim=0.6), SECOND])
    assert headline(mean) == (
        "Enhanced against plain over 16 views, better: PSNR 22.00 to 22.75; "
        "worse: SSIM 0.800 to 0.750, PSNR of the good half 35.00 to 34.95."
    )
    steadier = {role: {"warp_error": error} for role, error in (("plain", 0.5), ("enhanced", 0.3), ("truth", 0.4))}
    smoother = {role: {"warp_error": error} for role, error in (("plain", 0.3), ("enhanced", 0.2), ("truth", 0.4))}
    assert "better: warp error" in headline(replace(FIRST, scores=steadier))
    assert "nothing changed" in headline(replace(FIRST, scores=smoother))
    assert gains_table(mean).rows[0] == ("PSNR ↑", 22.0, 22.75, 0.75)
    assert scenes_table([FIRST]) is None
    assert scenes_table([FIRST, SECOND]).columns[:4] == ("scene", "views", "PSNR ↑ plain", "PSNR ↑ enhanced")


def test_nothing_cannot_be_averaged():
    with pytest.raises(ValueError, match="no scenes"):
        average([])
    with pytest.raises(ValueError, match="no held-out"):
        scene_result("wall", [])


def test_every_measure_is_named_once():
    assert len({measure.title for measure in MEASURES.values()}) == len(MEASURES)
