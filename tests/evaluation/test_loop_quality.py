# SPDX-License-Identifier: Apache-2.0
"""The loop's own test: what it tries, what its figures mean, and a whole run of it."""

import json
from dataclasses import replace

import pytest
from test_ablation import PROTOCOL, TINY, at_once
from toy import write_capture

from gsplat_trainer.__main__ import parse as read_flags
from harmonizer_ns.cli import evaluate
from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation.jobs import arguments_of
from harmonizer_ns.evaluation.loop import PHOTOS, efficiency, plan_loop
from harmonizer_ns.evaluation.oracles import FLAWS
from harmonizer_ns.evaluation.prepared import prepare
from harmonizer_ns.files import write_json

__all__ = ["at_once"]


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return write_capture(tmp_path_factory.mktemp("captures") / "east", count=8, width=32, height=24, held_out_every=4)


def test_efficiency_is_a_share_of_what_the_photos_give():
    plain, photos = {0: 20.0, 1: 21.0}, {0: 24.0, 1: 25.0, 2: 9.0}
    assert efficiency(plain, plain, photos) == 0
    assert efficiency(photos, plain, photos) == 1
    assert efficiency({0: 22.0, 1: 22.0}, plain, photos) == pytest.approx(3 / 8)
    assert efficiency({0: 19.0}, plain, photos) == pytest.approx(-1 / 4)
    assert efficiency({7: 19.0}, plain, photos) is None
    assert efficiency(photos, plain, plain) is None


def test_the_upper_bound_trains_on_what_is_judged(capture, tmp_path):
    trials = plan_loop(PROTOCOL, prepare(PROTOCOL, [capture], tmp_path), {"bold": ["--photo_share", "0.5"]}, "cpu")
    jobs = {trial.row: trial.job for trial in trials if trial.seed == 0 and trial.image == "rgb"}
    assert len({job.key for job in jobs.values()}) == 2 + 2 * len(FLAWS)
    assert [row for row, job in jobs.items() if job.photos == "all"] == [PHOTOS]
    assert read_flags(arguments_of(jobs["perfect, bold"], tmp_path)).photo_share == 0.5
    assert {read_flags(arguments_of(job, tmp_path)).seeds for job in jobs.values()} == {"capture"}
    own = plan_loop(PROTOCOL, prepare(PROTOCOL, [capture], tmp_path), {"dense": ["--seeds", "dense"]}, "cpu")
    dense = next(trial.job for trial in own if trial.row == "perfect, dense")
    assert read_flags(arguments_of(dense, tmp_path)).seeds == "dense"


def test_the_truth_is_asked_where_it_is_known(capture, tmp_path):
    scenes = prepare(PROTOCOL, [capture], tmp_path)
    with pytest.raises(InputError, match="needs targets 'eval'"):
        plan_loop(replace(PROTOCOL, targets="auto"), scenes, {}, "cpu")


def test_a_whole_test_of_the_loop(capture, tmp_path, at_once, capsys):
    runs = [{**TINY["runs"][0], "steps": 60, "fix_start": 10, "steps_per_fix": 10}]
    write_json(tmp_path / "tiny.json", {**TINY, "runs": runs})
    command = ["--loop", str(capture), "--output", str(tmp_path / "out"), "--protocol", str(tmp_path / "tiny.json")]
    evaluate.main(evaluate.parse([*command, "--seeds", "0", "--device", "cpu"]))
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    (table,) = told["tables"]
    rows = {row[0]: row for row in table["rows"]}
    assert list(rows) == ["plain", PHOTOS, *FLAWS]
    assert rows[PHOTOS][-1] == "100%"
    assert rows["perfect"][4] == pytest.approx(100)
    assert rows["misaligned by 0.8 px"][4] > rows["misaligned by 1.6 px"][4]
    assert rows["perfect"][1] > rows["plain"][1]  # the truth was learned from
    assert "perfect repairs give" in told["summary"][0]
    assert "8 jobs, 8 to do" in capsys.readouterr().out
