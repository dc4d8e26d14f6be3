# SPDX-License-Identifier: Apache-2.0
"""A capture, and what lies beside it, is byte by byte the same after every command, except for smaller photos."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import toy_streams
from runs import run, tiny_config
from toy import gaussian_scene, write_capture, write_colmap

import gsplat_trainer.__main__ as trainer
from harmonizer_ns.cli import judging, view
from harmonizer_ns.cli.main import COMMANDS, main
from harmonizer_ns.plugin.opening import open_run
from harmonizer_ns.splats.files import write_splats
from harmonizer_ns.splats.model import seed_splats
from harmonizer_ns.synthesis.streams.table import STREAMS

READ_NO_CAPTURE = {"train", "scenes", "convert", "enhancers", "bench", "selftest", "doctor"}
SHORT = ["--data_factor", "2", "--max_steps", "2", "--enhancer", "none", "--lpips_net", "none", "--device", "cpu"]
SHORT += ["--render_traj_path", "none", "--test_every", "2"]
TINY = {"version": 1, "splits": {"halves": {"rule": "every", "train": 2}}, "width": 16, "runs": [{"steps": 1}]}
RECIPE = "width: 32\nstreams: [{kind: isp, count: 1, clip: 2}, {kind: flat, count: 1}]\n"


def train_from_photos(data: Path, output: Path) -> None:
    trainer.main(["default", "--data_dir", str(data), "--result_dir", str(output), *SHORT])


def train_from_splats(data: Path, output: Path) -> None:
    words = ["harmonize", "--ply", str(splats(output)), "--data_dir", str(data), "--result_dir", str(output / "x")]
    trainer.main([*words, *SHORT])


def look(data: Path, output: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    words = ["--data", str(data), "--enhancer", "none", "--device", "cpu", "--port", port]
    view.serve(view.parse([str(splats(output)), *words])).close()


def evaluate(data: Path, output: Path) -> None:
    words = ["--enhancer", "none", "--width", "32", "--steps", "3", "--views", "1", "--device", "cpu"]
    main(["evaluate", str(data), *words, "--output", str(output)])


def ablate(data: Path, output: Path) -> None:
    """Trainings read the copy that is prepared in the output folder; they are left out."""
    output.mkdir()
    (output / "tiny.json").write_text(json.dumps(TINY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "run_jobs", lambda *_: ())
        main(["ablate", str(data), "--protocol", str(output / "tiny.json"), "--output", str(output / "ablation")])


def enhance(data: Path, output: Path) -> None:
    photos = str(data / "images")
    main(["enhance", photos, str(output), "--ref", photos, "--enhancer", "none", "--device", "cpu", "--side-by-side"])


def synthesize(data: Path, output: Path) -> None:
    output.mkdir()
    (output / "recipe.yaml").write_text(RECIPE)
    main(["synthesize", str(output / "recipe.yaml"), "--scenes", str(data), "--output", str(output / "pairs")])


def splats(folder: Path) -> Path:
    scene = gaussian_scene()
    write_splats(folder / "scene.ply", seed_splats(scene["means"], scene["colors"], 0, opacity=0.9, scale=2.0))
    return folder / "scene.ply"


READ_CAPTURES = {
    "gsplat-trainer default": train_from_photos,
    "gsplat-trainer harmonize": train_from_splats,
    "view": look,
    "evaluate": evaluate,
    "ablate": ablate,
    "enhance": enhance,
    "synthesize": synthesize,
}


def contents(folder: Path) -> dict[str, bytes | None]:
    """Files and folders below a folder; smaller photos of the capture inside do not count."""
    found = {path.relative_to(folder): path for path in folder.rglob("*")}
    return {
        str(name): None if path.is_dir() else path.read_bytes()
        for name, path in found.items()
        if not name.match("capture/images_2") and not any(parent.match("capture/images_2") for parent in name.parents)
    }


def test_every_command_is_watched_or_reads_no_capture():
    watched = {name for name in READ_CAPTURES if not name.startswith("gsplat-trainer")}
    assert watched | READ_NO_CAPTURE == COMMANDS.keys()


@pytest.mark.parametrize("write", [write_capture, write_colmap], ids=["nerfstudio", "colmap"])
@pytest.mark.parametrize("command", READ_CAPTURES.values(), ids=READ_CAPTURES)
def test_commands_leave_captures_as_they_are(command, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(STREAMS, "flat", toy_streams.TOYS["flat"])
    data = write(tmp_path / "photos" / "capture")
    before = contents(data.parent)
    command(data, tmp_path / "output")
    assert contents(data.parent) == before
    assert (tmp_path / "output").is_dir()


def test_ns_train_and_its_viewer_leave_captures_as_they_are(tmp_path):
    data = write_capture(tmp_path / "photos" / "capture")
    before = contents(data.parent)
    run(tiny_config(data, tmp_path / "runs", max_num_iterations=3, pipeline__enhancer="none"))
    open_run(next((tmp_path / "runs").rglob("config.yml")), "cpu")
    assert contents(data.parent) == before
