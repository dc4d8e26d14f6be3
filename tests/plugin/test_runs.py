# SPDX-License-Identifier: Apache-2.0
"""Whole runs on a tiny capture: what users see when they train, stop, resume and evaluate."""

import errno
import json
import sys

import pytest
import torch
from nerfstudio.scripts.eval import ComputePSNR
from runs import run, start, tiny_config
from toy import assert_identical, write_capture

from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation.enhancer import measure_scene
from harmonizer_ns.evaluation.networks import Networks
from harmonizer_ns.evaluation.rendered import FittedScene
from harmonizer_ns.evaluation.sets import PictureSets
from harmonizer_ns.plugin import trainer as trainer_module
from harmonizer_ns.plugin.configs import read_config
from harmonizer_ns.plugin.opening import open_held_out, open_run
from harmonizer_ns.plugin.trainer import read_checkpoint

PSNR = "PSNR \N{UPWARDS ARROW}"


def checkpoint(trainer, step):
    return read_checkpoint(trainer.checkpoint_dir / f"step-{step:09d}.ckpt")


@pytest.mark.parametrize("nerf", [False, True])
def test_a_run_learns_and_reports_both_images(capture, tmp_path, mixer, capfd, nerf):
    width = 32 if nerf else 64  # a NeRF takes long to be rendered
    options = {"compare_to_baseline": not nerf, "pipeline__max_image_width": width}
    trainer = run(tiny_config(capture, tmp_path, nerf=nerf, **options))
    report = json.loads((trainer.base_dir / "harmonize_report.json").read_text())
    rows = report["held_out"]
    assert {"harmonize: rgb", "harmonize: rgb_enhanced"} <= rows.keys()
    assert rows["harmonize: rgb"]["psnr"] != rows["harmonize: rgb_enhanced"]["psnr"]
    assert ("plain baseline: rgb" in rows) == (not nerf)
    assert report["summary"]["targets"] == "extrapolated around the capture by 0.2 of its extent"
    assert report["summary"]["rounds"] == 2
    assert 1 <= report["summary"]["pseudo_views"] <= 6  # repairs that nobody can trust are not kept
    assert len(list((trainer.base_dir / "harmonize").glob("step-*_target-*.jpg"))) == 6
    assert len(trainer.pipeline.datamanager.train_dataset) == 8
    assert len(trainer.pipeline.datamanager.eval_dataset) == 2
    told = json.loads((trainer.base_dir / "report.json").read_text())
    assert (trainer.base_dir / "report.html").stat().st_size > 10_000
    images = ["plain", "harmonized", "enhanced"][nerf:]
    assert [row[:2] for row in told["tables"][0]["rows"]] == [
        [image, pytest.approx(rows[name]["psnr"])]
        for image, name in zip(
            images, ["plain baseline: rgb", "harmonize: rgb", "harmonize: rgb_enhanced"][nerf:], strict=True
        )
    ]
    assert {view["name"] for view in told["views"]} == {"images/002.png", "images/007.png"}
    for view in told["views"]:
        assert view["pictures"] == {name: [3, width * 3 // 4, width] for name in (*images, "truth")}
        assert [name for name in view["scores"] if "PSNR" in name] == [f"{PSNR} {name}" for name in images]
    for image in images:
        values = [view["scores"][f"{PSNR} {image}"] for view in told["views"]]
        assert sum(values) / 2 == pytest.approx(told["data"]["averages"][image]["psnr"], abs=1e-4)
    assert {name for plot in told["plots"] for name in plot["series"]} >= {"harmonized: pseudo_loss", "mean weight"}
    assert [len(places) for places in told["cameras"]["groups"].values()] == [8, 2, 3]
    last = told["galleries"]["The last round of repairs"]
    assert {"pixel weight", "render", "repaired"} == last[0]["pictures"].keys()
    assert len(told["settings"]["enhancer"]["sha256 of its weights"]) == 64
    printed = capfd.readouterr().out
    assert "Step (% Done)" not in printed
    assert len(printed.splitlines()) < 100
    fit, enhancer = open_held_out(trainer.base_dir / "config.yml", "cpu")
    judged = measure_scene(FittedScene("toy", fit), mixer, Networks(), PictureSets(Networks()))
    assert (judged.views, enhancer, len(fit.capture.train)) == (2, "builtin", 8)
    for role, row in (("plain", "harmonize: rgb"), ("enhanced", "harmonize: rgb_enhanced")):
        assert judged.score("psnr", role) == pytest.approx(rows[row]["psnr"], abs=0.005)
    if not nerf:
        baseline = trainer.base_dir / "baseline"
        assert open_run(baseline / "config.yml", "cpu").start.width == 64
        settings = read_config(baseline / "config.yml").pipeline
        assert (settings.enhancer, settings.seeds, settings.depth_weight) == ("none", "capture", 0)
        ComputePSNR(baseline / "config.yml", tmp_path / "eval.json").main()
        psnr = json.loads((tmp_path / "eval.json").read_text())["results"]["psnr"]
        assert psnr == pytest.approx(rows["plain baseline: rgb"]["psnr"], abs=1e-4)


def test_an_enhancer_that_fails_on_some_photos_has_no_average_and_ends_nothing(capture, tmp_path, mixer, capfd):
    """Whether it fails on the first photo or on a later one; what it made is shown all the same."""
    trainer = start(tiny_config(capture, tmp_path))
    enhance = mixer.enhance
    for failing in (1, 2):
        calls = []

        def fails_once(*arguments, calls=calls, failing=failing):
            calls.append(None)
            return 1 / 0 if len(calls) == failing else enhance(*arguments)

        mixer.enhance = fails_once
        metrics = trainer.pipeline.get_average_eval_image_metrics(step=0)
        assert len(calls) == 2
        assert metrics["psnr"] > 5
        assert not any("enhanced" in name for name in metrics)
        assert "the enhancer failed: ZeroDivisionError" in capfd.readouterr().out


def test_saved_run_evaluates_to_the_same_numbers(capture, tmp_path, mixer, monkeypatch):
    """Also when the user has had enough of the baseline: what was measured before is told."""
    config = tiny_config(capture, tmp_path, compare_to_baseline=True)
    monkeypatch.setattr(trainer_module.HarmonizeTrainer, "_train_baseline", lambda trainer: sys.exit("interrupted"))
    with pytest.raises(SystemExit, match="interrupted"):
        run(config)
    folder = config.get_base_dir()
    rows = json.loads((folder / "harmonize_report.json").read_text())["held_out"]
    assert list(rows) == ["harmonize: rgb", "harmonize: rgb_enhanced"]
    assert (folder / "report.html").exists()
    ComputePSNR(folder / "config.yml", tmp_path / "eval.json").main()
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert results["psnr"] == pytest.approx(rows["harmonize: rgb"]["psnr"], abs=1e-4)
    assert results["psnr_enhanced"] == pytest.approx(rows["harmonize: rgb_enhanced"]["psnr"], abs=1e-4)


@pytest.mark.parametrize(("nerf", "interruptions"), [(False, (3, 5)), (True, (5,))])  # the 5th repair is of round 2
def test_interrupted_run_continues_bit_identically(capture, tmp_path, mixer, nerf, interruptions):
    options = {"nerf": nerf, "final_report": False}
    if nerf:
        options |= {"max_num_iterations": 14, "pipeline__fix_steps": [4, 9], "pipeline__max_image_width": 24}
    whole = run(tiny_config(capture, tmp_path / "whole", **options))
    for number in interruptions:
        mixer.calls, mixer.fail_at = 0, number
        stopped = start(tiny_config(capture, tmp_path / f"stopped {number}", **options, steps_per_save=5))
        with pytest.raises(KeyboardInterrupt):
            stopped.train()
        assert mixer.calls == number
        mixer.fail_at = -1
        folder = stopped.checkpoint_dir
        resumed = run(tiny_config(capture, tmp_path / f"resumed {number}", **options, load_dir=folder))
        assert resumed.step == whole.step
        assert_identical(checkpoint(whole, whole.step), checkpoint(resumed, whole.step))


def test_starts_from_a_checkpoint_of_the_plain_method(capture, tmp_path, mixer):
    plain = run(tiny_config(capture, tmp_path / "plain", pipeline__steps_per_fix=0, final_report=False))
    state = checkpoint(plain, 29)
    del state["pipeline"]["_extra_state"]
    state["pipeline"]["_model.lpips.net.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "splatfacto.ckpt")
    config = tiny_config(capture, tmp_path / "more", load_checkpoint=tmp_path / "splatfacto.ckpt", final_report=False)
    trainer = start(config)
    torch.testing.assert_close(trainer.pipeline.model.means.data, state["pipeline"]["_model.gauss_params.means"])
    trainer.train()
    assert trainer.step == 59
    assert trainer.pipeline.repairs.summary()["rounds"] == 3
    assert not torch.equal(trainer.pipeline.model.features_dc, plain.pipeline.model.features_dc)


def test_a_full_disk_leaves_the_last_checkpoint(capture, tmp_path, mixer, monkeypatch):
    trainer = start(tiny_config(capture, tmp_path, save_only_latest_checkpoint=True))
    trainer.save_checkpoint(1)

    def full(state, file):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trainer_module.torch, "save", full)
    with pytest.raises(InputError, match=r"step-000000002.*No space left"):
        trainer.save_checkpoint(2)
    assert [file.name for file in trainer.checkpoint_dir.iterdir()] == ["step-000000001.ckpt"]
    assert not list(tmp_path.rglob("*.partial"))
    assert checkpoint(trainer, 1)["step"] == 1


@pytest.mark.parametrize("nerf", [False, True])
def test_distorted_photos_of_any_lens_are_undistorted_once(tmp_path, mixer, nerf):
    data = write_capture(tmp_path / "capture", k1=0.05, k2=0.01)
    options = {"final_report": False, "max_num_iterations": 6, "pipeline__fix_steps": [4]}
    options["pipeline__max_image_width"] = 32
    trainer = run(tiny_config(data, tmp_path / "out", nerf=nerf, **options))
    photos = trainer.pipeline.photos
    assert trainer.pipeline.repairs.summary()["rounds"] == 1
    for index, camera in enumerate(photos.cameras):
        assert tuple(photos.photo(index).shape) == (3, camera.height, camera.width)


def test_enhancer_and_images_stay_out_of_the_checkpoint(capture, tmp_path, mixer):
    trainer = run(tiny_config(capture, tmp_path, final_report=False))
    state = checkpoint(trainer, 29)["pipeline"]
    assert {name.split(".")[0] for name in state} == {"_model", "_extra_state"}
    assert len(state["_extra_state"]["distiller"]["store"]["views"]) == 6


@pytest.mark.parametrize("width", [67, 80, 93])
def test_photos_are_read_at_the_asked_width(tmp_path, mixer, width):
    data = write_capture(tmp_path / "capture", count=4, width=width)
    trainer = start(tiny_config(data, tmp_path / "out", pipeline__max_image_width=20))
    assert {camera.width for camera in trainer.pipeline.photos.cameras} == {20}
    assert trainer.pipeline.photos.photo(0).shape[2] == 20


def test_a_run_that_holds_nothing_out_reports_all_the_same(own_capture, tmp_path, mixer, capfd):
    file = own_capture / "transforms.json"
    meta = {name: value for name, value in json.loads(file.read_text()).items() if not name.endswith("_filenames")}
    file.write_text(json.dumps(meta))
    config = tiny_config(own_capture, tmp_path, max_num_iterations=6, pipeline__fix_steps=[3])
    config.pipeline.datamanager.dataparser.eval_mode = "all"  # nerfstudio then evaluates what it has learned from
    folder = run(config).base_dir
    assert json.loads((folder / "harmonize_report.json").read_text())["held_out"] == {}
    told = json.loads((folder / "report.json").read_text())
    assert told["summary"][0] == "No photo was held out, so nothing was measured."
    assert "Loss" in [plot["title"] for plot in told["plots"]]
    assert told["cameras"]["groups"].keys() == {"photos", "targets"}
    assert "No photo was held out" in capfd.readouterr().out
