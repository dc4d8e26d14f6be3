# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's dataparser reads captures as ours does: far away, written on Windows, without asking or writing."""

from __future__ import annotations

import json

import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from toy import move_capture, write_capture

from harmonizer_ns.captures.capture import load_capture
from harmonizer_ns.captures.frame import ORIGIN_FILE, write_origin
from harmonizer_ns.plugin.dataparser import PlyNerfstudio

UTM = (458123.0, 5432345.0, 120.0)


def parsed(folder, split="train"):
    parser = PlyNerfstudio(NerfstudioDataParserConfig(data=folder, load_3D_points=True))
    return parser, parser.get_dataparser_outputs(split)


def changed(folder, change):
    meta = json.loads((folder / "transforms.json").read_text())
    change(meta)
    (folder / "transforms.json").write_text(json.dumps(meta), encoding="utf-8-sig")
    return folder


@pytest.fixture
def far(tmp_path):
    return move_capture(write_capture(tmp_path / "utm"), UTM)


def test_a_far_capture_becomes_the_same_scene(tmp_path, far):
    (_, plain), (parser, moved) = parsed(write_capture(tmp_path / "plain")), parsed(far)
    assert parser.origin.any()
    poses = [outputs.cameras.camera_to_worlds for outputs in (plain, moved)]
    torch.testing.assert_close(*poses, atol=1e-5, rtol=0)
    points = [outputs.metadata["points3D_xyz"] for outputs in (plain, moved)]
    torch.testing.assert_close(*points, atol=1e-5, rtol=0)


def test_the_capture_is_found_again_in_the_frame_of_the_run(tmp_path, far):
    parser, outputs = parsed(far)
    run = tmp_path / "run"
    outputs.save_dataparser_transform(run / "dataparser_transforms.json")
    write_origin(run, parser.origin)
    assert (run / ORIGIN_FILE).is_file()
    capture = load_capture(far)
    placed = capture.moved(capture.nerfstudio_frame(run / "dataparser_transforms.json"))
    opengl = outputs.cameras.camera_to_worlds * torch.tensor([1.0, -1.0, -1.0, 1.0])
    ours = torch.stack([placed.cameras[i].camera_to_world[0, :3] for i in placed.train])
    torch.testing.assert_close(ours, opengl, atol=1e-5, rtol=0)


def test_names_from_windows_are_read(tmp_path):
    def windows(meta):
        for frame in meta["frames"]:
            frame["file_path"] = frame["file_path"].replace("/", "\\")
        for part in ("train", "val", "test"):
            meta[f"{part}_filenames"] = [name.replace("/", "\\") for name in meta[f"{part}_filenames"]]

    _, outputs = parsed(changed(write_capture(tmp_path / "c"), windows))
    assert len(outputs.image_filenames) == 8
    assert all(path.is_file() for path in outputs.image_filenames)


def test_old_captures_are_neither_asked_about_nor_changed(tmp_path, monkeypatch):
    folder = changed(write_capture(tmp_path / "c"), lambda meta: meta.pop("ply_file_path"))
    (folder / "colmap/sparse/0").mkdir(parents=True)
    monkeypatch.setattr("rich.prompt.Confirm.ask", lambda *_: pytest.fail("asked"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    _, outputs = parsed(folder)
    assert "points3D_xyz" not in outputs.metadata
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
