# SPDX-License-Identifier: Apache-2.0
"""Ablations: which trainings they take, that none is done twice, and what is made of their figures."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import stdev

import pytest
import toy_training
from toy import write_capture

from harmonizer_ns.cli import ablate, judging
from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation import jobs
from harmonizer_ns.evaluation.ablation import PARTS, plan, read_options, report, rows_of
from harmonizer_ns.evaluation.comparison import collect, judge, tables
from harmonizer_ns.evaluation.jobs import NO_REPAIRS, read_result, run_jobs
from harmonizer_ns.evaluation.networks import Networks
from harmonizer_ns.evaluation.prepared import prepare
from harmonizer_ns.evaluation.protocols import Run, parse_protocol
from harmonizer_ns.files import write_json

TINY = {
    "version": 1,
    "splits": {"own": {"rule": "every", "train": 4, "own": True}},
    "runs": [{"steps": 12, "seeds": [0, 1], "fix_start": 4, "steps_per_fix": 4, "options": ["--sh_degree", "1"]}],
}
PROTOCOL = parse_protocol({**TINY, "name": "tiny"}, "tiny")


@pytest.fixture(scope="module")
def captures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captures")
    return [write_capture(folder / name, count=8, width=32, height=24, held_out_every=4) for name in ("east", "west")]


@pytest.fixture
def at_once(monkeypatch):
    """Trainings are done in this process: starting one takes seconds."""
    monkeypatch.setattr(jobs, "run_apart", in_this_process)


def in_this_process(do, tasks, workers, died):
    return (do(task) for task in tasks)


def work(trials, output, workers=2):
    outcomes = run_jobs([trial.job for trial in trials], output, toy_training.train, Networks(), workers, False)
    return [outcome for outcome in outcomes if outcome.problem]


def trained(output) -> list[str]:
    return (output / "trained.txt").read_text().split()


# --- which trainings --------------------------------------------------------------------------------------------------


def test_rows_share_their_trainings(captures, tmp_path):
    trials = plan(PROTOCOL, prepare(PROTOCOL, captures[:1], tmp_path), {"bold": ["--photo_share", "0.5"]}, "cpu")
    keys = {trial.row: trial.job.key for trial in trials if trial.seed == 0}
    assert keys["plain"] == keys["post-render"]
    assert keys["progressive"] == keys["progressive + post-render"]
    assert keys["bold"] == keys["bold + post-render"]
    assert len(set(keys.values())) == 5 + len(PARTS) + 1
    plain = next(trial.job for trial in trials if trial.row == "plain")
    assert plain.options[-2:] == NO_REPAIRS
    assert "--sh_degree" in plain.options
    assert str(tmp_path) not in json.dumps(plain.settings())


def test_a_single_round_is_one_round():
    (row,) = (row for row in rows_of(Run(1000), {}) if row.name == "one-time")
    assert row.options[-2:] == ("--fix_steps", "500")


def test_the_names_of_rows_are_unique(tmp_path):
    with pytest.raises(InputError, match="a row 'no gate' already"):
        rows_of(Run(10), {"no gate": []})
    write_json(tmp_path / "mine.json", {"bold": "--photo_share 0.5"})
    with pytest.raises(InputError, match="'bold' should be a list of flags"):
        read_options(tmp_path / "mine.json")


def test_each_part_off_is_one_setting_of_the_trainer_changed(captures, tmp_path):
    from gsplat_trainer.__main__ import parse
    from harmonizer_ns.evaluation.jobs import arguments_of

    trials = plan(PROTOCOL, prepare(PROTOCOL, captures[:1], tmp_path), {}, "cpu")
    judging.check_options([trial.job for trial in trials])
    configs = {t.row: parse(arguments_of(t.job, tmp_path)) for t in trials if t.seed == 0}
    whole = configs["progressive"]
    changed = {
        row: {name for name, value in vars(configs[row]).items() if value != getattr(whole, name)} - {"result_dir"}
        for row in PARTS
    }
    assert changed == {
        "no gate": {"gate"},
        "no references": {"num_references"},
        "no fade": {"trust", "photo_share", "gate"},  # the gate stays as strict
        "no small steps": {"step_fraction"},
        "no geometry": {"seeds"},
        "no thinning": {"opacity_reg"},
    }
    seeds = {row: (config.seeds, config.geometry_dir) for row, config in configs.items()}
    assert seeds["plain"] == seeds["no geometry"] == ("capture", tmp_path)
    assert seeds["dense seeds"] == seeds["progressive"] == ("auto", tmp_path)
    thinned = {row: configs[row].opacity_reg for row in ("plain", "dense seeds", "dense seeds, thinned", "progressive")}
    assert thinned == {"plain": 0, "dense seeds": 0, "dense seeds, thinned": None, "progressive": None}
    assert configs["dense seeds"].round_steps(0, 11) == ()
    assert configs["plain"].round_steps(0, 11) == ()
    assert list(configs["progressive"].round_steps(0, 11)) == [4, 8]
    assert list(configs["one-time"].round_steps(0, 11)) == [6]
    assert (whole.targets, whole.num_targets, whole.seed, whole.max_steps) == ("eval", 2, 0, 12)


def test_flags_that_the_trainer_does_not_know_are_refused(captures, tmp_path):
    trials = plan(PROTOCOL, prepare(PROTOCOL, captures[:1], tmp_path), {"mine": ["--no_such_flag", "1"]}, "cpu")
    with pytest.raises(InputError, match=r"gsplat_trainer does not take .*--no_such_flag"):
        judging.check_options([trial.job for trial in trials])


# --- none is done twice -----------------------------------------------------------------------------------------------


def test_what_is_finished_is_not_done_again(captures, tmp_path, at_once):
    scenes = prepare(PROTOCOL, captures[:1], tmp_path)
    assert work(plan(PROTOCOL, scenes, {}, "cpu"), tmp_path) == []
    first = trained(tmp_path)
    assert len(first) == len(set(first)) == 2 * (5 + len(PARTS))
    assert work(plan(PROTOCOL, scenes, {"mine": ["--photo_share", "0.5"]}, "cpu"), tmp_path) == []
    assert len(trained(tmp_path)) == len(first) + 2
    assert not (tmp_path / "running").exists() or not list((tmp_path / "running").iterdir())


def test_a_training_that_fails_or_dies_is_said_and_stops_no_other(captures, tmp_path):
    own = {"dies": ["--die"], "fails": ["--fail"], "works": ["--photo_share", "0.5"]}
    scenes = prepare(PROTOCOL, captures[:1], tmp_path)
    trials = plan(PROTOCOL, scenes, own, "cpu")
    few = [trial for trial in trials if trial.seed == 0 and trial.row in own]
    problems = sorted(outcome.problem for outcome in work(few, tmp_path, workers=3))
    assert len(problems) == 2
    assert "status 7" in problems[0]
    assert "no such luck" in problems[1]
    assert [trial.row for trial in few if read_result(trial.job, tmp_path) is not None] == ["works"]
    told = report(PROTOCOL, scenes, trials, tmp_path, problems)
    assert any(sentence.startswith("Not done: ") and "status 7" in sentence for sentence in told.summary)


def test_a_killed_ablation_goes_on_and_repeats_nothing(captures, tmp_path, monkeypatch):
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parent.parent)]!r}
import test_ablation
if __name__ == "__main__":
    test_ablation.start({str(captures[0])!r}, {str(tmp_path)!r})
"""
    (tmp_path / "run.py").write_text(code)
    process = subprocess.Popen([sys.executable, tmp_path / "run.py"], stdout=subprocess.DEVNULL)
    start = time.monotonic()
    while not list((tmp_path / "jobs").glob("*.json")) and time.monotonic() - start < 120:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {path.stem: path.read_bytes() for path in (tmp_path / "jobs").glob("*.json")}
    before = trained(tmp_path)
    trials = three(captures[0], tmp_path)
    assert 1 <= len(done) < len(trials)
    monkeypatch.setattr(jobs, "run_apart", in_this_process)
    assert work(trials, tmp_path) == []
    again = trained(tmp_path)[len(before) :]
    assert not done.keys() & set(again)
    assert len(set(again)) == len(trials) - len(done)
    assert {path.stem: path.read_bytes() for path in (tmp_path / "jobs").glob("*.json")}.items() >= done.items()
    assert all(read_result(trial.job, tmp_path) is not None for trial in trials)


def three(capture, output):
    """Trials whose trainings are three different ones."""
    trials = plan(PROTOCOL, prepare(PROTOCOL, [Path(capture)], Path(output)), {}, "cpu")
    return [trial for trial in trials if trial.seed == 0 and trial.row in ("plain", "progressive", "no fade")]


def start(capture, output):
    work(three(capture, output), Path(output), workers=1)


def test_ray_that_is_not_there_is_told(captures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    trials = three(captures[0], tmp_path)
    with pytest.raises(InputError, match=r"harmonizer-ns\[ray\]"):
        list(run_jobs([trial.job for trial in trials], tmp_path, toy_training.train, Networks(), 1, True))


def test_ray_does_the_same(captures, tmp_path, at_once):
    ray = pytest.importorskip("ray")
    results = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        trials, there = three(captures[0], folder), folder.name == "there"
        try:
            outcomes = list(run_jobs([trial.job for trial in trials], folder, toy_training.train, Networks(), 1, there))
        finally:
            ray.shutdown()
        assert not any(outcome.problem for outcome in outcomes)
        results.append([read_result(trial.job, folder)["views"] for trial in trials])
    assert results[0] == results[1]


def test_results_of_other_settings_do_not_pass(captures, tmp_path, at_once):
    trials = plan(PROTOCOL, prepare(PROTOCOL, captures[:1], tmp_path), {}, "cpu")[:1]
    work(trials, tmp_path)
    (file,) = (tmp_path / "jobs").glob("*.json")
    content = json.loads(file.read_text())
    write_json(file, {**content, "settings": {**content["settings"], "steps": 13}})
    with pytest.raises(InputError, match="delete it"):
        read_result(trials[0].job, tmp_path)


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("better", ["higher", "lower", "one"])
def test_judgements_are_those_of_a_slow_reference(better):
    values, plain = {0: 1.5, 1: 0.75, 2: 0.5, 9: 3.0}, {0: 1.25, 1: 0.5, 2: 0.5, 4: 1.0}
    found = judge(values, plain, better)
    ahead = behind = 0
    for seed, value in values.items():
        if seed not in plain:
            continue
        distances = (abs(value - 1), abs(plain[seed] - 1))
        first, second = (value, plain[seed]) if better == "higher" else (-value, -plain[seed])
        if better == "one":
            first, second = -distances[0], -distances[1]
        ahead += first > second
        behind += first < second
    mean = sum(values.values()) / 4
    spread = math.sqrt(sum((value - mean) ** 2 for value in values.values()) / 3)
    assert found == (pytest.approx(mean), pytest.approx(spread), ahead, behind)
    assert judge({0: 1.0}, {}, better) == (1.0, None, 0, 0)


def test_the_table_is_that_of_a_slow_reference(captures, tmp_path, at_once):
    scenes = prepare(PROTOCOL, captures, tmp_path)
    trials = plan(PROTOCOL, scenes, {}, "cpu")
    assert work(trials, tmp_path) == []
    files = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "jobs").glob("*.json")}

    def value(scene, row, seed):
        (trial,) = (t for t in trials if (t.scene, t.row, t.seed) == (scene, row, seed))
        views = files[trial.job.key]["views"]
        return sum(view[trial.image]["psnr"] for view in views) / len(views)

    rows = list(dict.fromkeys(trial.row for trial in trials))
    table = tables(collect(trials, tmp_path), PROTOCOL.runs[0], rows, ["east", "west"])[0]
    assert table.columns[:3] == ("", "east", "west")
    for row, *cells, mean, gain, signs in table.rows:
        values = {scene: [value(scene, row, seed) for seed in (0, 1)] for scene in ("east", "west")}
        plain = {scene: [value(scene, "plain", seed) for seed in (0, 1)] for scene in ("east", "west")}
        assert mean == pytest.approx(sum(map(sum, values.values())) / 4)
        ahead = {s: sum(a > b for a, b in zip(values[s], plain[s], strict=True)) for s in values}
        behind = {s: sum(a < b for a, b in zip(values[s], plain[s], strict=True)) for s in values}
        for scene, cell in zip(values, cells, strict=True):
            told = f"{sum(values[scene]) / 2:.2f} ± {stdev(values[scene]):.2f}"
            assert cell == (told if row == "plain" else f"{told} (+{ahead[scene]} -{behind[scene]})")
        if row != "plain":
            assert gain == pytest.approx(mean - sum(map(sum, plain.values())) / 4)
            assert signs == f"{sum(ahead.values())} / {sum(behind.values())}"


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_a_whole_ablation(captures, tmp_path, capsys, at_once):
    write_json(tmp_path / "tiny.json", {**TINY, "width": 32})
    command = [str(captures[0]), "--output", str(tmp_path / "out"), "--protocol", str(tmp_path / "tiny.json")]
    command += ["--seeds", "3", "--workers", "2", "--device", "cpu"]
    ablate.main(ablate.parse(command))
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["settings"]["protocol"]["runs"][0]["seeds"] == [3]
    assert len(told["settings"]["protocol"]["enhancer"]["sha256"]) == 64
    rows = {row[0]: row for row in told["tables"][0]["rows"]}
    assert len(rows) == 7 + len(PARTS)
    assert all(row[1] is not None for row in rows.values())
    assert {"plain", "harmonized", "enhanced", "truth"} == set(told["views"][0]["pictures"])
    assert (tmp_path / "out" / "report.html").is_file()
    output = capsys.readouterr().out
    assert "[11/11]" in output
    assert [file.suffix for file in (tmp_path / "out" / "geometry").iterdir()] == [".safetensors"]
    ablate.main(ablate.parse(command))
    assert "11 jobs, 0 to do" in capsys.readouterr().out
    with pytest.raises(InputError, match="another --output: runs"):
        ablate.main(ablate.parse([*command[:-6], "--seeds", "4", "--device", "cpu"]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "77"], "no run of 77 steps; it has 1000, 2500"),
        ([], "the protocol sparse names none"),
        (["nowhere"], "nowhere is not a folder"),
        (["--protocol", "sprase"], "did you mean sparse"),
        (["nowhere", "--enhancer", "bultin"], "bultin"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        ablate.main(ablate.parse([*arguments, "--output", str(tmp_path / "out")]))
    assert "\n" not in str(caught.value)
