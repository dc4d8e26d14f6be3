# SPDX-License-Identifier: Apache-2.0
"""Several processes repair as one, and splats that exist already are repaired."""

import ast
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from splat_runs import CPU, go, tiny
from toy_enhancer import Mixer
from two_processes import run_two

import gsplat_trainer
import gsplat_trainer.__main__ as command
from gsplat_trainer.config import DefaultConfig, HarmonizeConfig, check
from gsplat_trainer.distributed import World, run_round
from gsplat_trainer.scene import load_data
from gsplat_trainer.trainer import Trainer
from harmonizer_ns.distill import repairs
from harmonizer_ns.errors import InputError
from harmonizer_ns.raster import gsplat_kernels
from harmonizer_ns.splats.files import read_splats, write_splats


def test_it_imports_neither_nerfstudio_nor_its_plugin():
    for file in Path(gsplat_trainer.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                module = node.module or ""
                assert not module.startswith(("nerfstudio", "harmonizer_ns.plugin", "harmonizer_ns.cli")), file


# --- several processes ------------------------------------------------------------------------------------------------


def _process(rank: int, data: str, folder: str) -> None:
    enhancer = Mixer()
    repairs.load_enhancer = lambda name: enhancer
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"  # a port that is free now may be taken when both have started
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    config = tiny(Path(data), Path(folder) / "o")
    trainer = Trainer(config, load_data(config), CPU, World(rank, 2))
    with trainer.whole_scene():
        run_round(trainer.world, trainer.repairs, 10)
    draws = [trainer.repairs.draw(step) for step in range(11, 20)]
    enhancer.fail_at = -2
    enhancer.enhance = lambda *arguments: 1 / 0
    run_round(trainer.world, trainer.repairs, 20)
    rounds, failed, failure = trainer.repairs.schedule.rounds, trainer.repairs.failed_rounds, ""
    trainer.repairs.renderer = None
    try:
        run_round(trainer.world, trainer.repairs, 30)
    except (AttributeError, RuntimeError) as error:
        failure = type(error).__name__
    result = {
        "calls": enhancer.calls,
        "count": len(trainer.splats["means"]),
        "views": [[v.step, v.target, v.rgb.sum().item(), v.weight.sum().item()] for v in trainer.repairs.store.stored],
        "draws": [None if view is None else [view.target, view.weight.sum().item()] for view in draws],
        "rounds": [rounds, failed],
        "failure": failure,
    }
    value = torch.full((2, 3), float(rank))
    trainer.world.average([value])
    result["average"] = value.unique().tolist()
    whole = trainer.world.gather(trainer.splats)
    result["whole"] = None if whole is None else len(whole["means"])
    (Path(folder) / f"{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


def test_one_process_repairs_and_all_see_the_same_pseudo_views(colmap, tmp_path):
    run_two(_process, str(colmap), str(tmp_path))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (first["calls"], second["calls"]) == (3, 0)
    assert first["views"] == second["views"] != []
    assert first["draws"] == second["draws"]
    assert any(draw is not None for draw in first["draws"])
    assert first["rounds"] == second["rounds"] == [1, 1]
    assert first["average"] == second["average"] == [0.5]
    assert (first["whole"], second["whole"]) == (first["count"] + second["count"], None)
    assert (first["failure"], second["failure"]) == ("AttributeError", "RuntimeError")


# --- harmonize --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(colmap, tmp_path_factory):
    """A PLY fitted to the capture."""
    out = tmp_path_factory.mktemp("trained")
    go(tiny(colmap, out, max_steps=25, enhancer="none"))
    return out / "ply/point_cloud_24.ply"


def harmonize(data, out, ply, **options):
    return tiny(
        data,
        out,
        HarmonizeConfig,
        ply=[ply] if ply else [],
        **({"max_steps": 16, "fix_start": 2, "steps_per_fix": 5} | options),
    )


def test_a_ply_goes_in_and_comes_out_better(colmap, tmp_path, trained, mixer):
    config = harmonize(colmap, tmp_path, trained, max_steps=30, final_report=True)
    trainer = go(config)
    before = json.loads((tmp_path / "stats/before_step0000.json").read_text())
    after = json.loads((tmp_path / "stats/val_step0029.json").read_text())
    assert after["psnr"] > before["psnr"]
    assert mixer.calls > 0
    told = json.loads((tmp_path / "report.json").read_text())
    assert [row[:2] for row in told["tables"][0]["rows"][:2]] == [
        ["before", pytest.approx(before["psnr"])],
        ["harmonized", pytest.approx(after["psnr"])],
    ]
    assert list(told["views"][0]["pictures"]) == ["before", "harmonized", "enhanced", "truth"]
    out = read_splats(tmp_path / "harmonized.ply")
    assert len(out["means"]) == len(read_splats(trained)["means"])
    assert torch.equal(out["means"], trainer.splats["means"].detach())


def test_a_nerfstudio_ply_wants_its_transform(colmap, tmp_path, trained, mixer):
    """ns-export writes the frame of the model: ``0.1 (R x + t)`` here."""
    splats = read_splats(trained)
    R = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    t = torch.tensor([5.0, 0.0, 80.0])
    splats["means"] = 0.1 * (splats["means"] @ R.T + t)
    splats["scales"] = splats["scales"] + torch.log(torch.tensor(0.1))
    w, x, y, z = splats["quats"].unbind(1)
    s = 0.5**0.5  # a quarter turn about z, times the Gaussian's own rotation
    splats["quats"] = torch.stack([s * (w - z), s * (x - y), s * (y + x), s * (z + w)], dim=1)
    splats["shN"] = splats["shN"][:, :0]
    write_splats(tmp_path / "ns.ply", splats)
    transform = tmp_path / "dataparser_transforms.json"
    transform.write_text(json.dumps({"transform": torch.cat([R, t[:, None]], 1).tolist(), "scale": 0.1}))
    with pytest.raises(InputError, match="ply_transform"):
        go(harmonize(colmap, tmp_path / "wrong", tmp_path / "ns.ply"))
    go(harmonize(colmap, tmp_path / "o", tmp_path / "ns.ply", ply_transform=str(transform), max_steps=1))
    go(harmonize(colmap, tmp_path / "same", trained, max_steps=1))
    moved, same = (
        json.loads((tmp_path / name / "stats/before_step0000.json").read_text())["psnr"] for name in ("o", "same")
    )
    assert moved == pytest.approx(same, abs=0.5)  # without view-dependent colour


def camera_path(tmp_path, data):
    config = tiny(data, tmp_path)
    flip = torch.tensor([1.0, -1.0, -1.0, 1.0])
    entries = [
        {"camera_to_world": (camera.camera_to_world[0] * flip).flatten().tolist(), "fov": 50.0, "aspect": 1.33}
        for camera in load_data(config).cameras[::3]
    ]
    file = tmp_path / "camera_path.json"
    file.write_text(json.dumps({"camera_path": entries, "render_width": 64, "render_height": 48}))
    return file


def test_without_photos_the_splats_learn_from_repairs_of_their_own_renders(colmap, tmp_path, trained, mixer):
    file = camera_path(tmp_path, colmap)
    config = harmonize(None, tmp_path / "o", trained, targets="path", camera_path=file)
    trainer = go(config)
    assert all(context.references in ((), (None,)) for context in mixer.contexts)
    before, after = read_splats(trained), read_splats(tmp_path / "o" / "harmonized.ply")
    assert not torch.equal(before["sh0"], after["sh0"])
    assert after["sh0"].mean() < before["sh0"].mean()  # the fake enhancer darkens
    assert trainer.repairs.schedule.rounds == 3


@pytest.mark.parametrize(
    ("options", "match"),
    [({"ply": None}, "--ply"), ({"data_dir": None}, "--targets path"), ({"normalize_world_space": True}, "own frame")],
)
def test_what_is_missing_is_named(colmap, tmp_path, trained, options, match):
    options = {"data_dir": colmap, "ply": trained} | options
    with pytest.raises(InputError, match=match):
        go(harmonize(options.pop("data_dir"), tmp_path, options.pop("ply"), **options))


@pytest.mark.parametrize("asked", [False, True])
def test_several_gpus_work_only_when_asked_for(monkeypatch, tmp_path, asked):
    started = []
    for name, value in (("is_available", True), ("device_count", 4)):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda value=value: value)
    monkeypatch.setattr(gsplat_kernels, "load_gsplat_kernels", lambda: None)
    monkeypatch.setattr("gsplat.distributed.cli", lambda worker, config: started.append("all"))
    finished = SimpleNamespace(is_finished=True)
    monkeypatch.setattr(command, "run", lambda config, device, world: started.append(str(device)) or finished)
    command.launch(tiny(tmp_path, tmp_path, device="cuda", all_gpus=asked))
    assert started == ["all" if asked else "cuda"]


def test_what_several_gpus_cannot_do_is_said_before_they_start(tmp_path):
    absgrad = replace(DefaultConfig().strategy, absgrad=True)
    for changes, message in (({"strategy": absgrad}, "absgrad"), ({"disable_viewer": False}, "viewer")):
        with pytest.raises(InputError, match=f"{message}.*--all_gpus"):
            check(replace(tiny(tmp_path, tmp_path, all_gpus=True), **changes))


def test_corrections_of_poses_and_colours_learn_from_all_ranks(colmap, tmp_path):
    class Halving(World):
        def average(self, values):
            for value in values:
                value /= 2

    learned = []
    for number, world in enumerate((World(), Halving())):
        config = tiny(colmap, tmp_path / str(number), enhancer="none", pose_opt=True, app_opt=True)
        trainer = Trainer(config, load_data(config), CPU, world)
        trainer.learn(0)
        extras = trainer.extras.values()
        learned.append([state["exp_avg"] for extra in extras for state in extra.optimizer.state.values()])
    assert len(learned[0]) == 2
    for whole, half in zip(*learned, strict=True):
        assert whole.any()
        torch.testing.assert_close(half, whole / 2)
