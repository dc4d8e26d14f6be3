# SPDX-License-Identifier: Apache-2.0
"""Finished runs are measured on their held-out photos, as they measured themselves."""

import json

import pytest
from runs import start, tiny_config
from splat_runs import go, tiny
from toy import write_capture

from gsplat_trainer.config import HarmonizeConfig
from harmonizer_ns.cli.main import main


@pytest.fixture(scope="module")
def splat_run(tmp_path_factory):
    """Five photos with masks would be the same; these are a capture's, in gsplat's frame."""
    folder = tmp_path_factory.mktemp("splats")
    capture = write_capture(folder / "toy")
    go(tiny(capture, folder / "result", max_steps=12, normalize_world_space=True, enhancer="none"))
    return folder / "result"


def evaluated(path, output, *more):
    main(["evaluate", str(path), "--device", "cpu", "--output", str(output), *more])
    return json.loads((output / "report.json").read_text())["scenes"]


def test_a_splat_run_scores_what_it_told_itself(splat_run, tmp_path, capsys):
    (scene,) = evaluated(splat_run, tmp_path)
    own = json.loads(next(splat_run.glob("stats/val_*.json")).read_text())
    assert scene["psnr_render"] == pytest.approx(own["psnr"], abs=1e-3)
    assert scene["ssim_render"] == pytest.approx(own["ssim"], abs=1e-4)
    assert scene["psnr_enhanced"] is None  # the run's own enhancer is none
    assert (scene["scene"], scene["views"]) == ("toy result", 2)
    assert "toy result" in capsys.readouterr().out


def test_its_renders_are_enhanced_with_the_enhancer_that_is_asked_for(splat_run, tmp_path):
    (scene,) = evaluated(splat_run / "cfg.yml", tmp_path, "--enhancer", "builtin", "--views", "1")
    assert scene["views"] == 1
    assert scene["psnr_enhanced"] != scene["psnr_render"]


def test_splats_that_were_repaired_are_measured_in_their_own_frame(splat_run, tmp_path):
    ply = sorted(splat_run.glob("ply/*.ply"))[-1]
    options = {"ply": [ply], "ply_transform": "gsplat", "max_steps": 4, "fix_start": 2, "enhancer": "none"}
    go(tiny(splat_run.parent / "toy", tmp_path / "repaired", HarmonizeConfig, **options))
    (scene,) = evaluated(tmp_path / "repaired", tmp_path / "out")
    own = json.loads(next((tmp_path / "repaired").glob("stats/val_*.json")).read_text())
    assert scene["psnr_render"] == pytest.approx(own["psnr"], abs=1e-3)


def test_runs_and_captures_make_one_table(splat_run, tmp_path, capsys):
    paths = [str(splat_run), str(splat_run), str(splat_run.parent / "toy")]
    options = ["--enhancer", "none", "--width", "None", "--steps", "5", "--views", "1", "--device", "cpu"]
    main(["evaluate", *paths, *options])
    printed = capsys.readouterr().out
    for name in ("toy result", "toy result 2", "average"):
        assert name in printed
    main(["evaluate", paths[0], *options, "--temporal", "--views", "2", "--between", "0"])
    assert "photo to photo" in capsys.readouterr().out


def damaged_splat_run(folder, text):
    folder.mkdir()
    (folder / "cfg.yml").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data_dir: null", "no checkpoint"),
        ("data_factor: much", "data_factor is 'much'"),
        ("- a list", "should hold the settings of a run"),
        ("data_dir: [", "cannot read"),
    ],
)
def test_runs_that_cannot_be_opened_are_one_clear_error(text, message, tmp_path):
    folder = damaged_splat_run(tmp_path / "run", text)
    with pytest.raises(SystemExit, match=message):
        main(["evaluate", str(folder), "--device", "cpu"])


def test_runs_without_photos_to_compare_with_are_refused(splat_run, tmp_path):
    folder = damaged_splat_run(tmp_path / "run", "data_dir: null")
    (folder / "ckpts").mkdir()
    for path in splat_run.glob("ckpts/ckpt_*"):
        (folder / "ckpts" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(SystemExit, match="had a camera path and no photos"):
        main(["evaluate", str(folder), "--device", "cpu"])
    settings = (splat_run / "cfg.yml").read_text().replace("test_every: 5", "test_every: 0")
    (folder / "cfg.yml").write_text(settings.replace(str(splat_run.parent / "toy"), str(_all_train(tmp_path))))
    with pytest.raises(SystemExit, match="no held-out photos"):
        main(["evaluate", str(folder), "--device", "cpu"])


def _all_train(folder):
    """A capture that holds nothing out."""
    capture = write_capture(folder / "all")
    meta = json.loads((capture / "transforms.json").read_text())
    kept = {name: value for name, value in meta.items() if not name.endswith("_filenames")}
    (capture / "transforms.json").write_text(json.dumps(kept))
    return capture


def test_a_nerfstudio_run_that_learned_from_all_photos_is_refused(tmp_path):
    config = tiny_config(_all_train(tmp_path), tmp_path / "out", max_num_iterations=1)
    config.pipeline.datamanager.dataparser.eval_mode = "all"
    trainer = start(config)
    trainer.save_checkpoint(0)
    with pytest.raises(SystemExit, match="learned from all of its photos"):
        main(["evaluate", str(trainer.base_dir), "--device", "cpu"])


def test_flights_and_pairs_do_not_go_together(splat_run, tmp_path):
    (tmp_path / "set/render").mkdir(parents=True)
    (tmp_path / "set/gt").mkdir()
    photo = splat_run.parent / "toy/images/000.png"
    for kind in ("render", "gt"):
        (tmp_path / "set" / kind / "a.png").write_bytes(photo.read_bytes())
    with pytest.raises(SystemExit, match="one or the other"):
        main(["evaluate", str(splat_run), str(tmp_path / "set"), "--temporal", "--device", "cpu"])
