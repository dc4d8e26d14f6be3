# SPDX-License-Identifier: Apache-2.0
"""Whole runs: what users find in the result folder, resume, and what learns from what."""

import json
import math
import sys
from dataclasses import replace

import pytest
import torch
import tyro
import yaml
from plyfile import PlyData
from splat_runs import CPU, go, tiny
from toy import arc_cameras, assert_identical, write_colmap

from gsplat_trainer import checkpoint
from gsplat_trainer.__main__ import main
from gsplat_trainer.config import Config, DefaultConfig, HarmonizeConfig, McmcConfig, check, scaled
from gsplat_trainer.scene import load_data
from gsplat_trainer.trainer import Trainer
from gsplat_trainer.trajectory import focus_point, make_trajectory
from harmonizer_ns.errors import InputError
from harmonizer_ns.metrics import psnr
from harmonizer_ns.splats.files import read_splats
from harmonizer_ns.splats.model import NAMES
from harmonizer_ns.splats.rendering import SplatRenderer
from harmonizer_ns.types import PseudoView


@pytest.mark.parametrize("kind", ["default", "mcmc"])
def test_the_command_leaves_what_gsplat_users_expect(colmap, tmp_path, mixer, kind):
    out = tmp_path / "out"
    main(
        f"{kind} --data-dir {colmap} --result_dir {out} --data_factor 1 --max-steps 24 --eval_steps 12 "
        "--fix_steps 8 16 --num_targets 2 --sh_degree 1 --lpips-net none --traj_frames 3 --device cpu "
        "--strategy.refine-start-iter 4 --strategy.refine_every 5".split()
    )
    stats = json.loads((out / "stats/val_step0023.json").read_text())
    assert {"psnr", "ssim", "psnr_enhanced", "ellipse_time", "num_GS"} <= stats.keys()
    assert stats["psnr"] > json.loads((out / "stats/val_step0011.json").read_text())["psnr"]
    state = torch.load(out / "ckpts/ckpt_23_rank0.pt", weights_only=True)
    assert (state["step"], set(state["splats"])) == (23, set(NAMES))
    assert len(PlyData.read(str(out / "ply/point_cloud_23.ply"))["vertex"].data) == len(state["splats"]["means"])
    for name in ("Pred", "Fixed", "Ref", "Weight"):
        assert len(list((out / "renders/novel").glob(f"*/{name}/*.png"))) == 4
    assert len(list((out / "renders/novel").glob("*/target_*.jpg"))) == 4
    assert {path.name for path in (out / "videos").iterdir()} == {"traj_23.mp4", "traj_23_enhanced.mp4"}
    assert yaml.safe_load((out / "cfg.yml").read_text())["max_steps"] == 24
    assert len(list((out / "renders").glob("val_step23_*.png"))) == 2
    assert list((out / "tb").iterdir())
    told = json.loads((out / "report.json").read_text())
    assert (out / "report.html").stat().st_size > 10_000
    assert [row[0] for row in told["tables"][0]["rows"]] == ["harmonized", "enhanced"]
    assert told["tables"][0]["rows"][0][1] == pytest.approx(stats["psnr"])
    assert [view["rank"] for view in told["views"]] == [
        view["scores"]["PSNR \N{UPWARDS ARROW} harmonized"] for view in told["views"]
    ]
    series = {name: points for plot in told["plots"] for name, points in plot["series"].items()}
    assert [step for step, _ in series["harmonized: enhanced"]] == [11, 23]
    assert len(series["harmonized: photo"]) == 24
    assert told["settings"]["run"]["max_steps"] == 24


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"^gsplat-trainer: .* holds neither transforms\.json nor a COLMAP"):
        main(["default", "--data_dir", str(tmp_path), "--result_dir", str(tmp_path / "o")])


def full_state(config: Config, step: int):
    return checkpoint.load_full(checkpoint.full_path(config.result_dir / "ckpts", step, 0))


@pytest.mark.parametrize(("kind", "options"), [(None, {}), (McmcConfig, {"app_opt": True, "random_bkgd": True})])
@pytest.mark.parametrize("interrupted_at", [5, 3])  # the 5th repair is inside the round at step 20, the 3rd at step 10
def test_interrupted_run_continues_bit_identically(colmap, tmp_path, mixer, kind, options, interrupted_at):
    options = options | {"test_list": tmp_path / "nobody.txt", "save_steps": [8, 15]}
    options["test_list"].write_text("")
    kinds = {} if kind is None else {"kind": kind}
    whole = tiny(colmap, tmp_path / "whole", **kinds, **options)
    go(whole)
    mixer.calls, mixer.fail_at = 0, interrupted_at
    stopped = tiny(colmap, tmp_path / "stopped", **kinds, **options)
    with pytest.raises(KeyboardInterrupt):
        go(stopped)
    mixer.fail_at = -1
    resumed = replace(stopped, result_dir=tmp_path / "resumed", resume=tmp_path / "stopped")
    go(resumed)
    assert_identical(full_state(whole, 29), full_state(resumed, 29))


def trainer_of(data, tmp_path, **options):
    config = tiny(data, tmp_path / "o", **options)
    return Trainer(config, load_data(config), CPU)


def test_density_control_listens_to_photos_only(colmap, tmp_path, mixer, monkeypatch):
    statistics = []
    for weight in (None, 1.0):
        trainer = trainer_of(colmap, tmp_path)
        camera = trainer.scene.cameras[0]
        view = PseudoView(*torch.rand(2, 3, 48, 64), torch.ones(1, 48, 64), camera, 0, 0)
        monkeypatch.setattr(trainer.repairs, "draw", lambda step, device, w=weight, v=view: None if w is None else v)
        losses = trainer.learn(1)
        assert ("pseudo" in losses) == (weight is not None)
        statistics.append((trainer.strategy_state["grad2d"].clone(), trainer.splats["means"].detach().clone()))
    assert torch.equal(statistics[0][0], statistics[1][0])
    assert not torch.equal(statistics[0][1], statistics[1][1])


def test_pseudo_view_counts_by_its_weight(colmap, tmp_path, mixer):
    trainer = trainer_of(colmap, tmp_path)
    target = torch.full((3, 48, 64), 0.9)
    values = []
    for weight in (0.0, 0.5, 1.0):
        before = torch.zeros_like(target)
        view = PseudoView(target, before, torch.full((1, 48, 64), weight), trainer.scene.cameras[0], 0, 0)
        values.append(trainer.objective.pseudo_view(trainer.splats, 0, view)[1]["pseudo"].item())
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[0] < values[1] < values[2]


@pytest.mark.parametrize(
    "options",
    [
        {"pose_opt": True, "app_opt": True},
        {"depth_loss": True},
        {"antialiased": True, "packed": True, "visible_adam": True},
        {"packed": True, "sparse_grad": True},
        {"batch_size": 2, "opacity_reg": 0.01, "scale_reg": 0.01},
        {"init_type": "random", "init_num_pts": 300},
        {"normalize_world_space": True, "steps_scaler": 0.5},
    ],
)
def test_options_train(colmap, tmp_path, options):
    config = tiny(colmap, tmp_path, max_steps=30, enhancer="none", test_every=0, **options)
    config = scaled(replace(config, strategy=replace(config.strategy, refine_start_iter=26)))
    check(config)
    trainer = go(config)
    before = Trainer(config, trainer.scene, CPU)
    target = trainer.scene.photo(0) / 255
    errors = [(t.render(trainer.scene.cameras[0]).rgb[0] - target).abs().mean() for t in (before, trainer)]
    assert errors[1] < errors[0]
    for name, extra in trainer.extras.items():
        assert any(value.abs().sum() > 0 for value in extra.module.parameters()), name


def test_masked_pixels_teach_nothing(tmp_path):
    from PIL import Image

    data = write_colmap(tmp_path / "c", count=3)
    for file in (data / "images").iterdir():
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.new("L", (64, 48), 0 if file.name == "photo 1.png" else 255).save(tmp_path / "masks" / file.name)
    trainer = trainer_of(data, tmp_path, mask_dir=tmp_path / "masks", enhancer="none", test_every=0)
    _, losses = trainer.objective.photos(trainer.splats, 0, [1], 0)
    assert losses["photo"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"targets": "eval", "test_every": 0}, "held-out"),
        ({"resume": "missing"}, "no full checkpoint"),
    ],
)
def test_bad_settings_are_named(colmap, tmp_path, options, match):
    if "resume" in options:
        options = {"resume": tmp_path / options["resume"]}
    with pytest.raises(InputError, match=match):
        go(tiny(colmap, tmp_path / "o", **options))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"photo_share": 0.3}, "photo_share"),
        ({"pseudo_loss_weight": 1.1}, "pseudo_loss_weight"),
        ({"num_targets": 0}, "num_targets"),
        ({"num_references": -1}, "num_references"),
        ({"store_capacity": 0}, "store_capacity"),
        ({"step_fraction": 0.0}, "step_fraction"),
        ({"opacity_reg": -0.01}, "opacity_reg"),
        ({"opacity_reg": math.nan}, "opacity_reg"),
        ({"scale_reg": -0.01}, "scale_reg"),
        ({"targets": "path"}, "camera path"),
        ({"enhancer": "nobody"}, "nobody"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_data_is_read(tmp_path, options, match):
    with pytest.raises(InputError, match=match):
        check(tiny(tmp_path, tmp_path, **options))


def test_lenses_are_no_setting(capsys):
    with pytest.raises(SystemExit):
        main(["default", "--camera_model", "fisheye"])
    assert "fisheye" in capsys.readouterr().err


def test_resuming_another_kind_of_run_is_refused(colmap, tmp_path):
    config = tiny(colmap, tmp_path / "a", max_steps=2, enhancer="none")
    go(config)
    with pytest.raises(InputError, match="density control"):
        go(tiny(colmap, tmp_path / "b", McmcConfig, enhancer="none", resume=tmp_path / "a"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("order"),
        lambda state: state["splats"].pop("sh0"),
        lambda state: state["splats"].update(means=[1.0]),
        lambda state: state["splats"].update(quats=torch.zeros(3, 3)),
        lambda state: state.update(splats=None),
        lambda state: state.update(step="late"),
        lambda state: state.update(optimizers=[]),
        lambda state: state.update(shuffle=torch.zeros(3)),
    ],
)
def test_resuming_a_damaged_checkpoint_gives_one_error(colmap, tmp_path, damage):
    config = tiny(colmap, tmp_path, max_steps=1, enhancer="none")
    trainer = Trainer(config, load_data(config), CPU)
    state = trainer.state_dict()
    path = checkpoint.full_path(tmp_path, 0, 0)
    damage(state)
    checkpoint.save_full(path, state)
    with pytest.raises(InputError) as caught:
        go(replace(config, resume=path))
    assert str(path) in str(caught.value) or "the checkpoint: quats" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_evaluating_one_rank_measures_the_whole_scene(colmap, tmp_path):
    whole = go(tiny(colmap, tmp_path / "a", max_steps=2, enhancer="none", sh_degree_interval=1))
    for rank in range(2):
        part = {name: value[rank::2] for name, value in whole.splats.items()}
        checkpoint.save_gsplat(checkpoint.gsplat_path(tmp_path, 1, rank), 1, part)
    again = go(tiny(colmap, tmp_path / "b", ckpt=[checkpoint.gsplat_path(tmp_path, 1, 1)], enhancer="none"))
    assert len(again.splats["means"]) == len(whole.splats["means"])


def test_evaluating_a_gsplat_checkpoint_changes_nothing(colmap, tmp_path):
    trained = go(tiny(colmap, tmp_path / "a", max_steps=12, enhancer="none", sh_degree_interval=1))
    file = tmp_path / "a/ckpts/ckpt_11_rank0.pt"
    again = go(tiny(colmap, tmp_path / "b", ckpt=[file], enhancer="none"))
    assert torch.equal(trained.splats["means"], again.splats["means"])
    first = json.loads((tmp_path / "a/stats/val_step0011.json").read_text())
    second = json.loads((tmp_path / "b/stats/val_step0000.json").read_text())
    assert first["psnr"] == pytest.approx(second["psnr"], abs=1e-4)


@pytest.mark.parametrize("kind", ["interp", "ellipse", "spiral"])
def test_trajectories_are_rigid_and_look_at_the_scene(colmap, tmp_path, kind):
    cameras = load_data(tiny(colmap, tmp_path)).cameras
    path = make_trajectory(kind, cameras, 9)
    focus = focus_point(torch.cat([camera.camera_to_world for camera in cameras]))
    torch.testing.assert_close(focus, torch.zeros(3), atol=1e-3, rtol=0)
    assert len(path) == 9
    for camera in path:
        R = camera.camera_to_world[0, :3, :3]
        torch.testing.assert_close(R.T @ R, torch.eye(3), atol=1e-4, rtol=0)
        assert torch.linalg.det(R) > 0
        towards = torch.nn.functional.normalize(focus - camera.centers[0], dim=0)
        assert towards @ R[:, 2] > 0.99


def test_no_format_at_all_is_refused():
    with pytest.raises(InputError, match="no-save_ply"):
        check(DefaultConfig(export_formats=[]))


def test_a_format_whose_codec_is_missing_is_refused_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsply", None)
    check(DefaultConfig())
    with pytest.raises(InputError, match=r"spz.*pip install"):
        check(DefaultConfig(export_formats=["ply", "spz"]))


def test_a_run_writes_every_format_and_harmonize_reads_them(colmap, tmp_path, mixer):
    pytest.importorskip("gsply")
    config = tiny(colmap, tmp_path / "run", max_steps=2, steps_per_fix=0)
    options = tyro.cli(DefaultConfig, args=["--export_formats", "ply", "ply_compressed", "spz"])
    go(replace(config, export_formats=options.export_formats))
    folder = tmp_path / "run" / "ply"
    names = ["point_cloud_1.compressed.ply", "point_cloud_1.ply", "point_cloud_1.spz"]
    assert sorted(file.name for file in folder.iterdir()) == names
    camera = arc_cameras(1, 64, 48)
    exact, *compressed = (
        SplatRenderer(read_splats(folder / name)).render(camera).rgb for name in (names[1], names[0], names[2])
    )
    assert all(psnr(picture, exact).item() > 40 for picture in compressed)
    out = tmp_path / "out"
    go(tiny(colmap, out, HarmonizeConfig, ply=[folder / names[2]], max_steps=1, export_formats=["spz"]))
    assert len(read_splats(out / "harmonized.spz")["means"]) == len(read_splats(folder / names[1])["means"])
    assert not (out / "harmonized.ply").exists()
