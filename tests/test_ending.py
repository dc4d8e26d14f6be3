# SPDX-License-Identifier: Apache-2.0
"""Runs of either host end when they are asked to, go on from there, and share their folder with no other run."""

import json
import os
import signal
from dataclasses import replace
from functools import cache

import pytest
import torch
from runs import run as run_nerfstudio
from runs import tiny_config
from splat_runs import go, tiny
from toy import assert_identical

from gsplat_trainer import checkpoint
from gsplat_trainer.__main__ import launch
from harmonizer_ns.distill.view_files import views_folder
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import locked
from harmonizer_ns.interruption import Interruption, InterruptionError
from harmonizer_ns.plugin.trainer import newest_checkpoint, read_checkpoint, views_named


@pytest.fixture
def _answered():
    """Programs that a shell began in the background ignore SIGINT, and so would the test."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_answered")
def test_the_first_signal_is_a_wish_and_the_second_one_stops():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interruption() as interruption:
        items = interruption.watched(range(3))
        assert next(items) == 0
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.asked
        with pytest.raises(InterruptionError):
            next(items)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


class Gsplat:
    """Twelve steps, with a round at 8."""

    def __init__(self, capture, folder):
        self.config = tiny(capture, folder, max_steps=12, fix_steps=[8], test_every=0, sh_degree=0)
        self.folder = folder

    def run(self):
        launch(self.config)

    def resume(self, other):
        self.config = replace(self.config, resume=other.folder)
        go(self.config)

    def saved(self):
        return checkpoint.newest_full(self.folder, 0)

    def state(self):
        return checkpoint.load_full(self.saved())

    def written(self):
        return self.folder / "cfg.yml"

    named = staticmethod(checkpoint.views_named)


class Nerfstudio:
    """As well."""

    def __init__(self, capture, folder):
        options = {"pipeline__fix_steps": [8], "final_report": False, "steps_per_save": 100}
        self.config = tiny_config(capture, folder, max_num_iterations=12, **options)
        self.folder = self.config.get_base_dir()

    def run(self):
        run_nerfstudio(self.config)

    def resume(self, other):
        self.config.load_dir = other.folder / "nerfstudio_models"
        run_nerfstudio(self.config)

    def saved(self):
        return newest_checkpoint(self.folder / "nerfstudio_models")

    def state(self):
        return read_checkpoint(self.saved())

    def written(self):
        return self.folder / "config.yml"

    named = staticmethod(views_named)


HOSTS = pytest.mark.parametrize("host", [Gsplat, Nerfstudio])


@pytest.fixture(scope="module")
def undisturbed(capture, tmp_path_factory):
    """The last states of whole runs, by host, which are trained when they are first asked for."""

    @cache
    def state(host):
        whole = host(capture, tmp_path_factory.mktemp("whole") / "run")
        whole.run()
        return whole.state()

    return state


@pytest.mark.parametrize(("number", "in_round"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
@HOSTS
def test_an_interrupted_run_saves_says_how_to_go_on_and_goes_on_bit_identically(
    capture, tmp_path, mixer, undisturbed, monkeypatch, capfd, host, number, in_round
):
    stopped, resumed = (host(capture, tmp_path / name) for name in ("stopped", "resumed"))
    whole = undisturbed(host)
    steps, enhance, calls = [], mixer.enhance, []
    loss = torch.Tensor.backward

    def backward(*arguments, **options):
        steps.append(None)
        if len(steps) == 7 and not in_round:
            os.kill(os.getpid(), number)
        return loss(*arguments, **options)

    def signalling(*arguments):
        calls.append(None)
        torch.rand(5)
        if len(steps) == 8 and in_round:
            os.kill(os.getpid(), number)
        return enhance(*arguments)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(mixer, "enhance", signalling)
    with pytest.raises(SystemExit, match=r"interrupted after .*last good checkpoint is .*go on with --"):
        stopped.run()
    assert len(steps) == (8 if in_round else 7)
    assert stopped.state()["step"] == len(steps) - 1
    monkeypatch.setattr(torch.Tensor, "backward", loss)
    monkeypatch.setattr(mixer, "enhance", enhance)
    resumed.resume(stopped)
    assert_identical(whole, resumed.state())


@HOSTS
def test_pseudo_views_lie_beside_the_checkpoints_and_one_that_is_missing_is_named(capture, tmp_path, mixer, host):
    first, second = (host(capture, tmp_path / name) for name in ("first", "second"))
    first.run()
    folder = views_folder(first.saved().parent)
    views = sorted(folder.iterdir())
    assert 1 <= len(views) <= 3
    assert {path.stem for path in views} == host.named(first.saved())
    views[0].unlink()
    with pytest.raises((InputError, SystemExit), match=f"{views[0]} is missing; keep that folder"):
        second.resume(first)


@HOSTS
def test_a_folder_in_which_a_run_is_at_work_is_refused_and_nothing_changes(capture, tmp_path, mixer, host):
    run = host(capture, tmp_path)
    written = run.written()
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text("of the run that is at work")
    with locked(run.folder), pytest.raises((InputError, SystemExit), match=rf"process {os.getpid()} on .* is working"):
        run.run()
    assert written.read_text() == "of the run that is at work"


@HOSTS
def test_what_a_killed_run_left_is_swept_at_the_next_start(capture, tmp_path, mixer, host):
    run = host(capture, tmp_path)
    run.folder.mkdir(parents=True, exist_ok=True)
    for name in (".cfg.0123abcd.77.partial", ".step-000000002.99.partial"):
        (run.folder / name).mkdir()
        (run.folder / name / ".tmpAbCdEf").write_bytes(b"weights")
    (run.folder / "mine.partial").touch()
    run.run()
    assert not list(run.folder.rglob(".*.partial"))
    assert (run.folder / "mine.partial").exists()


def test_a_finished_run_says_so_and_can_still_write_its_report(capture, tmp_path, mixer, capsys):
    options = {"max_num_iterations": 8, "pipeline__fix_steps": [4], "save_only_latest_checkpoint": True}
    first = run_nerfstudio(tiny_config(capture, tmp_path, **options, final_report=False))
    before = first.checkpoint_dir / "step-000000007.ckpt"
    content = before.read_bytes()
    again = run_nerfstudio(tiny_config(capture, tmp_path, **options, load_dir=first.checkpoint_dir))
    assert "This run is finished" in capsys.readouterr().out
    assert [path.name for path in first.checkpoint_dir.iterdir()] == [before.name]
    assert before.read_bytes() == content
    report = json.loads((again.base_dir / "harmonize_report.json").read_text())
    assert report["held_out"]["harmonize: rgb"]["psnr"] > 5
    assert report["summary"]["rounds"] == 1
    curves = json.loads((again.base_dir / "report.json").read_text())["data"]["curves"]
    assert [step for step, _ in curves["loss/main_loss"]] == list(range(8))
    assert [step for step, _ in curves["round/mean weight"]] == [4]


def test_a_finished_gsplat_run_says_so_and_is_measured(capture, tmp_path, mixer, capsys):
    config = tiny(capture, tmp_path, max_steps=3, steps_per_fix=0)
    go(config)
    (tmp_path / "stats/val_step0002.json").unlink()
    go(replace(config, resume=tmp_path))
    assert "This run is finished" in capsys.readouterr().out
    assert (tmp_path / "stats/val_step0002.json").exists()


def test_training_goes_on_without_an_enhancer_that_always_fails_and_the_report_says_so(capture, tmp_path, mixer):
    mixer.enhance = lambda *arguments: 1 / 0
    options = {"max_num_iterations": 10, "pipeline__fix_steps": [2, 4, 6, 8]}
    host = run_nerfstudio(tiny_config(capture, tmp_path / "n", **options))
    report = json.loads((host.base_dir / "harmonize_report.json").read_text())
    assert list(report["held_out"]) == ["harmonize: rgb"]
    assert (report["summary"]["failed_rounds"], report["summary"]["rounds"]) == (3, 0)

    told = json.loads((host.base_dir / "report.json").read_text())["summary"]
    assert "The enhancer failed on 2 of 2 held-out photos: its image has no averages." in told
    assert "The enhancer failed in 3 rounds of repairs." in told

    go(tiny(capture, tmp_path / "g", max_steps=10, fix_steps=[2, 4, 6, 8], eval_steps=[5]))
    middle, last = (json.loads((tmp_path / f"g/stats/val_step{step:04d}.json").read_text()) for step in (4, 9))
    assert (middle["failed_rounds"], last["failed_rounds"]) == (2, 3)
    assert "psnr" in last
    assert not any("enhanced" in name for name in last)
