# SPDX-License-Identifier: Apache-2.0
"""Every odd input ends in one message that names it."""

import json
import shutil
import sys

import pytest
import torch
from PIL import Image
from runs import run, start, tiny_config
from toy import write_points


def edit(capture, **changes):
    file = capture / "transforms.json"
    meta = json.loads(file.read_text())
    meta.update(changes)
    file.write_text(json.dumps(meta))


def fog(capture):
    """Leave nothing to see."""
    for i, file in enumerate(sorted((capture / "images").iterdir())):
        Image.new("RGB", (64, 48), (128 + i,) * 3).save(file)


def message(config) -> str:
    with pytest.raises(SystemExit) as caught:
        start(config)
    return str(caught.value)


def test_no_transforms(tmp_path):
    assert "transforms.json does not exist" in message(tiny_config(tmp_path / "nowhere", tmp_path))


def test_no_images(own_capture, tmp_path):
    edit(own_capture, frames=[])
    assert "lists no frames" in message(tiny_config(own_capture, tmp_path))


def test_not_a_capture(own_capture, tmp_path):
    (own_capture / "transforms.json").write_text("{")
    assert "is not JSON" in message(tiny_config(own_capture, tmp_path))


def test_missing_and_truncated_images_are_named_together(own_capture, tmp_path):
    (own_capture / "images/000.png").unlink()
    whole = (own_capture / "images/001.png").read_bytes()
    (own_capture / "images/001.png").write_bytes(whole[: len(whole) // 2])
    text = message(tiny_config(own_capture, tmp_path))
    assert "2 of 10 photos cannot be used" in text
    assert "000.png is missing" in text
    assert "001.png is broken" in text


def test_one_image_only(own_capture, tmp_path):
    edit(own_capture, train_filenames=["images/000.png"])
    assert "1 training photo found, at least 2" in message(tiny_config(own_capture, tmp_path))


@pytest.mark.parametrize(("value", "complaint"), [(float("nan"), "NaN"), (3.0, "not rigid")])
def test_bad_pose_names_its_photo(own_capture, tmp_path, value, complaint):
    frames = json.loads((own_capture / "transforms.json").read_text())["frames"]
    frames[3]["transform_matrix"][0][0] = value
    edit(own_capture, frames=frames)
    text = message(tiny_config(own_capture, tmp_path))
    assert "images/003.png" in text
    assert complaint in text


def test_a_negative_weight_of_opacity(tmp_path):
    config = tiny_config(tmp_path, tmp_path)
    config.pipeline.model.opacity_reg = -0.02
    assert "opacity_reg should be at least 0, got -0.02" in message(config)


@pytest.mark.parametrize("seeds", ["auto", "capture"])
def test_no_seed_points(own_capture, tmp_path, seeds):
    write_points(own_capture / "points.ply", torch.zeros(0, 3), torch.zeros(0, 3))
    fog(own_capture)
    assert "0 seed points found" in message(tiny_config(own_capture, tmp_path, pipeline__seeds=seeds))


def test_dense_seeds_of_photos_that_match_nothing(own_capture, tmp_path):
    fog(own_capture)
    text = message(tiny_config(own_capture, tmp_path, pipeline__seeds="dense"))
    assert "match too little" in text
    assert "\n" not in text


def test_missing_point_cloud(own_capture, tmp_path):
    edit(own_capture, ply_file_path="gone.ply")
    assert "gone.ply" in message(tiny_config(own_capture, tmp_path))


def camera_path(file, pose):
    entry = {"camera_to_world": pose.flatten().tolist(), "fov": 50.0, "aspect": 4 / 3}
    content = {"camera_type": "perspective", "render_width": 64, "render_height": 48, "camera_path": [entry] * 2}
    file.write_text(json.dumps(content))
    return file


def test_target_path_without_overlap(capture, tmp_path):
    away = torch.eye(4)
    away[:3, 3] = torch.tensor([0.0, 0.0, 1000.0])
    away[:3, :3] = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    path = camera_path(tmp_path / "path.json", away)
    text = message(tiny_config(capture, tmp_path, pipeline__targets="path", pipeline__camera_path=path))
    assert "no overlap" in text


def test_missing_target_path(capture, tmp_path):
    config = tiny_config(capture, tmp_path, pipeline__targets="path", pipeline__camera_path=tmp_path / "none.json")
    assert "none.json" in message(config)
    assert "--pipeline.camera-path" in message(tiny_config(capture, tmp_path, pipeline__targets="path"))


def test_unknown_enhancer_is_refused_before_data_is_read(tmp_path):
    text = message(tiny_config(tmp_path / "nowhere", tmp_path, pipeline__enhancer="sharpener"))
    assert "sharpener" in text
    assert "builtin" in text


def test_a_missing_package_is_told_with_the_line_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "harmonizer_ns.enhancers.difix", None)
    text = message(tiny_config(tmp_path / "nowhere", tmp_path, pipeline__enhancer="difix"))
    assert text.startswith("harmonize: ")
    assert "pip install" in text
    assert "\n" not in text


def test_checkpoint_of_another_method(capture, tmp_path):
    options = {"pipeline__enhancer": "none", "final_report": False, "max_num_iterations": 1}
    nerf = run(tiny_config(capture, tmp_path / "nerf", nerf=True, **options))
    text = message(tiny_config(capture, tmp_path / "splat", load_dir=nerf.checkpoint_dir))
    assert "holds a nerfacto model, this method continues a splatfacto model" in text


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_broken_checkpoint(capture, tmp_path, content):
    file = tmp_path / "broken.ckpt"
    if content is not None:
        file.write_bytes(content)
    assert "broken.ckpt" in message(tiny_config(capture, tmp_path, load_checkpoint=file))


def test_checkpoint_of_something_else(capture, tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    text = message(tiny_config(capture, tmp_path, load_checkpoint=tmp_path / "other.ckpt"))
    assert "not a nerfstudio checkpoint" in text


@pytest.mark.parametrize("name", ["step", "pipeline", "optimizers"])
def test_checkpoint_with_a_part_of_another_kind(capture, tmp_path, name):
    state = {key: {} for key in ("pipeline", "optimizers", "schedulers", "scalers")} | {"step": 3, name: "text"}
    torch.save(state, tmp_path / "damaged.ckpt")
    text = message(tiny_config(capture, tmp_path, load_checkpoint=tmp_path / "damaged.ckpt"))
    assert "damaged.ckpt" in text
    assert "\n" not in text


def test_unwritable_output_folder(capture, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert f"cannot write to {tmp_path / 'file'}" in message(tiny_config(capture, tmp_path / "file"))


def test_nothing_is_written_when_a_capture_is_refused(own_capture, tmp_path):
    shutil.rmtree(own_capture / "images")
    message(tiny_config(own_capture, tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("*.ckpt"))
