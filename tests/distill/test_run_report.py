# SPDX-License-Identifier: Apache-2.0
"""What runs report, from figures and pictures made up here."""

import json
import math

import pytest
import torch
from plane_scene import PlaneCapture, PlaneRenderer, TrueEnhancer, look_at, plane_points, row_of_cameras

from harmonizer_ns.distill.curves import Curves
from harmonizer_ns.distill.held_out import HeldOutPhotos
from harmonizer_ns.distill.origin import Origin, provenance
from harmonizer_ns.distill.repairs import Repairs
from harmonizer_ns.distill.run_report import Trained, mark_quality, mark_round, run_report, write_run_report
from harmonizer_ns.distill.settings import DistillSettings
from harmonizer_ns.enhancers.gpu_sharing import ParkedEnhancer
from harmonizer_ns.report import write_report
from harmonizer_ns.views import JudgedView

CAMERAS, POINTS = row_of_cameras(), plane_points()
TARGET = look_at((1.0, 0.3, 0), (0, 0, 4))


@pytest.fixture(scope="module")
def repairs():
    """After one round at step 10."""
    settings = DistillSettings(fix_start=10, steps_per_fix=10, targets="eval", num_references=2)
    repairs = Repairs(settings, PlaneCapture(CAMERAS, POINTS), PlaneRenderer(damage=0.3), lambda line: None)
    repairs.enhancer = ParkedEnhancer(TrueEnhancer())
    repairs.plan(0, 100, [TARGET])
    curves = Curves(100)
    mark_round(curves, repairs.run(10))
    repairs.curves = curves  # type: ignore[attr-defined]
    return repairs


def trained(rows: dict[str, tuple[float, float | None]], curves: Curves | None = None) -> Trained:
    """A run with these PSNRs on photos: rendered and, unless the enhancer failed, enhanced."""
    photos = HeldOutPhotos()
    for name, (psnr, enhanced) in rows.items():
        metrics = {"psnr": psnr, "fps": 3.0, "psnr_enhanced": math.nan if enhanced is None else enhanced}
        images = {"plain": torch.full((3, 6, 8), psnr / 40)}
        images |= {} if enhanced is None else {"enhanced": torch.ones(3, 6, 8)}
        photos.add(JudgedView("0", name, images, torch.zeros(3, 6, 8)), metrics)
    columns = list(zip(*rows.values(), strict=True))
    metrics = {
        name: sum(column) / len(column)  # type: ignore[arg-type]
        for name, column in zip(("psnr", "psnr_enhanced"), columns, strict=False)
        if None not in column
    }
    return Trained(metrics, photos, curves or Curves(100), seconds=130.0)


def report(repairs, run, plain=None, **options):
    return run_report("a run", run, repairs, Origin("folder", CAMERAS, [TARGET], POINTS), plain, **options)


def test_a_run_is_compared_with_the_plain_one_and_what_got_worse_comes_first(repairs):
    run = trained({"a": (20.0, 21.0), "b": (25.0, 24.0), "c": (10.0, 14.0)}, repairs.curves)
    told = report(repairs, run, trained({"a": (19.5, None), "b": (25.5, None), "c": (11.0, None)}))
    assert told.summary[:2] == (
        "PSNR on 3 held-out photos: 18.67 dB plain, 18.33 dB harmonized (-0.33), 19.67 dB enhanced (+1.00).",
        "From plain to enhanced, 2 of 3 photos got better: -1.50 dB (b) to +3.00 dB (c).",
    )
    assert told.summary[-1] == "Training took 2 min, the plain one 2 min."
    assert [(view.name, view.rank) for view in told.views] == [("a", 1.5), ("b", -1.5), ("c", 3.0)]
    assert list(told.views[0].pictures) == ["plain", "harmonized", "enhanced", "truth"]
    assert told.views[0].pictures["plain"][0, 0, 0] == round(19.5 / 40 * 255)
    assert told.tables[0].rows == (
        ("plain", pytest.approx(56 / 3), None),
        ("harmonized", pytest.approx(55 / 3), pytest.approx(-1 / 3)),
        ("enhanced", pytest.approx(59 / 3), pytest.approx(1.0)),
    )
    (row,) = told.tables[1].rows
    assert row[:1] + row[2:3] == ("10", "100%")
    (view,) = told.galleries["The last round of repairs"]
    assert (view.name, list(view.pictures)) == ("target 0, step 10", ["render", "repaired", "pixel weight"])
    assert {name: len(places) for name, places in told.cameras.groups.items()} == {
        "photos": 5,
        "held-out": 1,
        "targets": 1,
    }


def test_without_a_plain_run_the_least_good_photos_come_first(repairs):
    told = report(repairs, trained({"a": (20.0, 21.0), "b": (25.0, 24.0)}))
    assert [view.rank for view in told.views] == [20.0, 25.0]
    assert told.summary[0] == "PSNR on 2 held-out photos: 22.50 dB harmonized, 22.50 dB enhanced (+0.00)."


def test_photos_that_the_enhancer_failed_on_are_told_and_keep_their_render(repairs):
    told = report(repairs, trained({"a": (20.0, None), "b": (25.0, 24.0)}))
    assert "The enhancer failed on 1 of 2 held-out photos: its image has no averages." in told.summary
    assert [row[0] for row in told.tables[0].rows] == ["harmonized"]
    assert [list(view.pictures) for view in told.views] == [
        ["harmonized", "truth"],
        ["harmonized", "enhanced", "truth"],
    ]


def test_nothing_held_out_and_no_repairs_are_told(tmp_path):
    plain = Repairs(DistillSettings(enhancer="none"), PlaneCapture(CAMERAS, POINTS), PlaneRenderer(), print)
    told = report(plain, trained({}))
    assert told.summary[0] == "No photo was held out, so nothing was measured."
    assert not told.galleries
    write_report(tmp_path, told)
    one = report(plain, trained({"a": (20.0, None)}))
    assert one.summary[0] == "PSNR on 1 held-out photo: 20.00 dB rendered."
    assert not any("failed" in sentence for sentence in one.summary)


def test_a_report_that_fails_is_said_and_ends_nothing(repairs, tmp_path, monkeypatch):
    lines = []
    write_run_report(tmp_path, lambda: 1 / 0, lines.append)
    assert lines[0].startswith("There is no report, which is a defect: ")
    assert "Traceback" in lines[0]
    (tmp_path / "file").touch()
    write_run_report(tmp_path / "file", lambda: report(repairs, trained({"a": (20.0, 21.0)})), lines.append)
    assert lines[1].startswith(f"There is no report: cannot write {tmp_path / 'file'}")
    write_run_report(tmp_path / "run", lambda: report(repairs, trained({"a": (20.0, 21.0)})), lines.append)
    said = lines[2].splitlines()
    assert said[0].startswith("PSNR on 1 held-out photo: 20.00 dB")  # what changed, in words
    assert said[-1] == f"Report: {tmp_path / 'run' / 'report.html'}"
    assert json.loads((tmp_path / "run" / "report.json").read_text())["data"]["averages"]["enhanced"] == {"psnr": 21.0}


def test_provenance_tells_captures_and_weights_apart_and_needs_no_network(tmp_path):
    found = [provenance(Origin("x", cameras, [], POINTS), "builtin") for cameras in (CAMERAS, CAMERAS[1:])]
    digests = [told["capture"]["sha256 of photos, cameras and points"] for told in found]
    assert digests[0] != digests[1]
    assert found[0]["enhancer"]["sha256 of its weights"] == found[1]["enhancer"]["sha256 of its weights"] is not None
    for without in ("none", "nvidia/not-here", str(tmp_path / "gone")):
        assert provenance(Origin("x", CAMERAS, [], None), without)["enhancer"]["sha256 of its weights"] is None


def test_pictures_are_kept_of_the_worst_and_the_best_and_are_not_large():
    photos = HeldOutPhotos()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).tolist()
    for psnr in order:
        image = torch.zeros(3, 4, 2048)
        photos.add(JudgedView("0", str(psnr), {"plain": image}, image), {"psnr": float(psnr)})
    kept = {int(name) for name, photo in photos.photos.items() if photo.pictures}
    assert kept == {*range(24), *range(52, 60)}
    assert photos.photos["0"].pictures["truth"].shape == (3, 2, 1024)
    assert len(photos.photos) == 60


# --- curves -----------------------------------------------------------------------------------------------------------


def test_a_point_is_the_mean_of_the_steps_before_it():
    curves = Curves(1000)
    for step in range(1000):
        curves.add(step, {"loss/a": torch.tensor(float(step)), **({"loss/b": 7.0} if step % 2 else {})})
    assert len(curves.points["loss/a"]) == 200
    assert curves.plot("loss")["a"][:2] == [(4, 2.0), (9, 7.0)]
    assert {value for _, value in curves.plot("loss")["b"]} == {7.0}
    assert curves.plot("los") == {}


def test_resumed_curves_are_those_of_a_run_that_was_not_stopped():
    values = torch.rand(700, generator=torch.Generator().manual_seed(0))
    whole, first, second = Curves(700), Curves(700), Curves(700)
    for step in range(700):
        whole.add(step, {"loss/a": values[step]})
    for step in range(401):
        first.add(step, {"loss/a": values[step]})
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for step in range(401, 700):
        second.add(step, {"loss/a": values[step]})
    assert second.state_dict() == whole.state_dict()


def test_what_is_measured_again_takes_the_place_of_what_came_later():
    curves = Curves(10)
    for step, psnr in ((3, 20.0), (6, 21.0), (6, 22.0), (5, 19.0)):
        mark_quality(curves, step, {"psnr": psnr, "psnr_enhanced": psnr + 1})
    assert curves.plot("psnr") == {"": [(3, 20.0), (5, 19.0)], "enhanced": [(3, 21.0), (5, 20.0)]}


@pytest.mark.parametrize("damage", [{}, {"points": {"a": [[1]]}, "sums": {}}, {"points": [], "sums": {}}])
def test_a_damaged_state_is_refused(damage):
    with pytest.raises((LookupError, TypeError, ValueError, AttributeError)):
        Curves(10).load_state_dict(damage)


@pytest.mark.parametrize("has_browser", [True, False])
def test_a_report_is_opened_when_that_is_asked_for(repairs, tmp_path, monkeypatch, has_browser):
    opened, lines = [], []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)) or has_browser)

    def make():
        return report(repairs, trained({"a": (20.0, 21.0)}))

    write_run_report(tmp_path, make, lines.append)
    assert not opened
    write_run_report(tmp_path, make, lines.append, opens=True)
    assert opened == [(tmp_path / "report.html").as_uri()]
    assert ("No browser" in lines[-1]) is not has_browser
