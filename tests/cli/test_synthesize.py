# SPDX-License-Identifier: Apache-2.0
"""``harmonizer synthesize``, on streams that cost nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toy_streams
from toy import write_capture, write_colmap

from harmonizer_ns.cli import synthesize
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import load_image, save_image
from harmonizer_ns.pairs import read_pairs
from harmonizer_ns.synthesis.streams.curation import CurationSettings
from harmonizer_ns.synthesis.streams.table import STREAMS
from harmonizer_ns.training.pairs_data.checks import check_pairs, clips

RECIPE = """
name: mix
seed: {seed}
width: 32
streams:
  - {{kind: dim, count: 4, clip: 3, settings: {settings}}}
  - {{kind: flat}}
  - {{kind: noise, count: 3}}
"""


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    for name, stream in toy_streams.TOYS.items():
        monkeypatch.setitem(STREAMS, name, stream)


@pytest.fixture
def work(tmp_path: Path, capture: Path) -> Path:
    """A recipe, a capture and a folder of photos."""
    shutil.copytree(capture, tmp_path / "room")
    generator = torch.Generator().manual_seed(0)
    for i in range(2):
        save_image(tmp_path / "photos" / f"{i}.png", torch.rand(3, 24, 40, generator=generator))
    write_recipe(tmp_path)
    return tmp_path


def main(arguments: list[str]) -> None:
    synthesize.main(synthesize.parse(arguments))


def write_recipe(work: Path, seed: int = 1, settings: str = "{}") -> None:
    (work / "recipe.yaml").write_text(RECIPE.format(seed=seed, settings=settings))


def arguments(work: Path, output: str, *more: str) -> list[str]:
    options = ["--scenes", str(work / "room"), "--photos", str(work / "photos"), "--output", str(work / output)]
    return [str(work / "recipe.yaml"), *options, *more]


def run(work: Path, output: str, *more: str) -> dict[str, bytes]:
    main(arguments(work, output, *more))
    return files(work / output)


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_pairs_of_all_sorts_of_streams_are_whole(work):
    made = run(work, "x")
    pairs = read_pairs(work / "x" / "pairs.json")
    every = pairs.train + pairs.test
    check_pairs([every])
    assert len(every) == 2 * 3 + 2 + 6 + 3 * 2
    assert sorted(len(frames) for frames in clips(every).values()) == [2, 2, 2, 3, 3, 3, 3]
    flat = [pair for pair in every if pair.name.startswith("flat/")]
    assert all(pair.depth and pair.cameras and len(pair.references) == 2 for pair in flat)
    assert len({file for pair in flat for file in pair.references}) == 3
    assert {"sheet_dim.png", "sheet_flat.png", "pairs_flat.json", ".lock"} <= made.keys()
    figures = json.loads(made["summary.json"])["streams"]["noise"]
    assert list(figures.pop("psnr").values()) == pytest.approx([10.8] * 3, abs=0.3)  # of the mean of x^2 / 4
    assert figures == {"pairs": 6, "train": 4, "test": 2, "clips": 3, "unchanged": 3}


def test_provenance_names_recipe_parameters_seed_and_source_file(work):
    run(work, "x")
    pairs = read_pairs(work / "x" / "pairs.json")
    source = next(p.source for p in pairs.train + pairs.test if p.name == "dim/room_00/0001")
    assert source["recipe"] == "mix"
    assert source["kind"] == "dim"
    assert source["parameters"] == {"seed": source["seed"], "posed": True}
    assert source["folder"] == "../room"
    assert source["file"] == source["files"][1]
    assert len(source["content"]) == 64


def test_the_same_recipe_makes_the_same_bytes_and_another_seed_others(work):
    first = run(work, "x")
    assert run(work, "y") == first
    write_recipe(work, seed=2)
    other = run(work, "z")
    assert other["noise/00000/0000_target.png"] != first["noise/00000/0000_target.png"]


def test_a_second_run_makes_what_is_missing_or_changed_and_nothing_else(work, capsys):
    whole = run(work, "x")
    (work / "x" / "dim" / "room_00" / "0001_mask.png").unlink()
    (work / "x" / "noise" / "00001" / "item.json").write_text("{")
    (work / "x" / "noise" / ".00002.1.partial").mkdir()
    capsys.readouterr()
    assert run(work, "x") == whole
    assert "2 to make, 2 of them anew" in capsys.readouterr().out
    save_image(work / "photos" / "0.png", torch.zeros(3, 24, 40))
    again = run(work, "x")
    assert "1 to make, 1 of them anew" in capsys.readouterr().out
    assert not load_image(work / "x" / "dim" / "0_00" / "0000_target.png").any()
    assert again["dim/1_00/0000_image.png"] == whole["dim/1_00/0000_image.png"]


def test_captures_of_any_kind_and_lens_are_taken(work):
    """Photos of a clip stay as they are; those of a capture, which has cameras, are undistorted."""
    shutil.rmtree(work / "room")
    write_colmap(work / "room", text=True)
    write_capture(work / "fisheye", camera_model="OPENCV_FISHEYE", k1=0.05)
    scenes = ["--scenes", str(work / "room"), str(work / "fisheye"), "--photos", str(work / "photos")]
    main([str(work / "recipe.yaml"), *scenes, "--output", str(work / "x")])
    pairs = read_pairs(work / "x" / "pairs.json")
    every = pairs.train + pairs.test
    check_pairs([every])
    for name in ("room", "fisheye"):
        flat = [pair for pair in every if pair.name.startswith(f"flat/{name}")]
        assert len(flat) == 6
        assert all(pair.cameras.width == 32 and len(pair.references) == 2 for pair in flat)
    sources = {pair.source["file"] for pair in every if pair.name.startswith("dim/room")}
    assert sources <= {f"images/photo {i}.png" for i in range(10)}
    name = next(pair.name for pair in every if pair.name.startswith("flat/fisheye"))
    (work / "z").mkdir()
    shutil.copy(work / "x" / "pairs.json", work / "z" / "pairs.json")
    main(["--rebuild", name, "--output", str(work / "z")])
    item = name.rpartition("/")[0]
    assert files(work / "z" / item) == files(work / "x" / item)


@pytest.mark.parametrize("name", ["dim/room_01/0002", "flat/room_00/0004", "noise/00001/0000"])
def test_any_pair_is_rebuilt_from_its_provenance_alone(work, name):
    whole = run(work, "x")
    (work / "z").mkdir()
    shutil.copy(work / "x" / "pairs.json", work / "z" / "pairs.json")
    main(["--rebuild", name, "--output", str(work / "z")])
    item = name.rpartition("/")[0]
    expected = {file: data for file, data in whole.items() if file.startswith(f"{item}/")}
    assert {file: data for file, data in files(work / "z").items() if "/" in file} == expected


def test_a_pair_of_changed_or_unknown_sources_is_not_rebuilt(work):
    run(work, "x")
    with pytest.raises(InputError, match="no pair 'dim/x'"):
        main(["--rebuild", "dim/x", "--output", str(work / "x")])
    save_image(work / "photos" / "0.png", torch.zeros(3, 24, 40))
    with pytest.raises(InputError, match=r"files of .*photos have changed"):
        main(["--rebuild", "dim/0_00/0000", "--output", str(work / "x")])


@pytest.mark.parametrize(("fail", "told"), [("input", "cannot be used"), ("bug", "ZeroDivisionError: a bug")])
def test_an_item_that_fails_is_told_and_the_others_are_made(work, fail, told):
    write_recipe(work, settings=f"{{fail: {fail}, scene: photos}}")
    with pytest.raises(InputError, match=rf"(?s)2 problems.*dim/0_00: {told}.*dim/1_00"):
        run(work, "x")
    pairs = read_pairs(work / "x" / "pairs.json")
    assert len(pairs.train + pairs.test) == 2 * 3 + 6 + 6
    assert (work / "x" / "errors.log").is_file() == (fail == "bug")
    assert not list((work / "x").rglob("*.partial"))
    write_recipe(work)
    assert "errors.log" not in run(work, "x")


def test_a_full_disk_is_told_once_and_what_is_finished_stays(work):
    write_recipe(work, settings="{fail: full, scene: photos/1}")
    with pytest.raises(InputError, match=r"disk of .* is full"):
        run(work, "x")
    assert (work / "x" / "dim" / "room_00" / "item.json").is_file()


def test_damaged_photos_are_told_and_the_others_made(work):
    (work / "photos" / "1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1 problems.*\n.*photos/1\.png"):
        run(work, "x")
    assert (work / "x" / "dim" / "0_00").is_dir()


def test_processes_make_the_same(work):
    expected = run_real(work, "x")
    assert run_real(work, "y", "--workers", "2") == expected


def run_real(work: Path, output: str, *more: str) -> dict[str, bytes]:
    """Of a stream that workers know as well; toys are known here alone."""
    (work / "recipe.yaml").write_text("width: 32\nstreams: [{kind: regions, count: 3, clip: 3}]\n")
    return run(work, output, *more)


def has_ended(process: int) -> bool:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not Path(f"/proc/{process}").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("who", "number", "told"),
    [
        ("parent", signal.SIGINT, "run the same command again to continue"),
        ("parent", signal.SIGKILL, ""),
        ("worker", signal.SIGKILL, "a worker process died"),
    ],
)
def test_a_stopped_run_leaves_no_workers_and_no_lock(work, who, number, told):
    recipe = "streams: [{kind: dim, count: 1, settings: {seconds: 60}, photos: [photos]}]"
    (work / "recipe.yaml").write_text(recipe)
    (work / "photos" / "1.png").unlink()  # one task has one worker
    options = [str(work / "recipe.yaml"), "--output", str(work / "x"), "--workers", "2"]
    parent = subprocess.Popen([sys.executable, toy_streams.__file__, *options], stderr=subprocess.PIPE, text=True)
    while not (begun := list((work / "x").glob("dim/.*.partial/*/0000_target.png"))):
        assert parent.poll() is None
        time.sleep(0.02)
    with pytest.raises(InputError, match=f"process {parent.pid} on"):
        main(options)
    worker = int(begun[0].parent.parent.name.split(".")[-2])
    os.kill({"parent": parent.pid, "worker": worker}[who], number)
    _, error = parent.communicate(timeout=30)
    assert told in error
    assert "Traceback" not in error
    assert parent.returncode != 0
    assert has_ended(worker)
    (work / "recipe.yaml").write_text(recipe.replace("60", "0"))
    main(options[:-2])
    assert not list((work / "x").rglob("*.partial"))


def test_what_is_wrong_with_a_recipe_is_told_before_anything_is_written(work):
    (work / "recipe.yaml").write_text("streams: [{kind: dimm}]")
    with pytest.raises(InputError, match="did you mean dim"):
        run(work, "x")
    assert not (work / "x").exists()


def test_streams_are_given_splats_and_nerfs_by_workers_too(work):
    (work / "recipe.yaml").write_text("streams: [{kind: named, count: 1}]")
    here, there = ([str(work / "recipe.yaml"), "--output", str(work / name)] for name in "xy")
    main(here)
    command = [sys.executable, toy_streams.__file__, *there, "--workers", "2"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for output in "xy":
        pairs = read_pairs(work / output / "pairs.json")
        (source,) = [pair.source for pair in pairs.train + pairs.test]
        assert source["parameters"] == {"reconstructors": ["nerf", "splat"]}


def test_a_missing_nerfstudio_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "harmonizer_ns.plugin.reconstruct", None)
    with pytest.raises(InputError, match=r"pip install 'harmonizer-ns\[nerfstudio\]'"):
        synthesize.build_nerf(CurationSettings(reconstructor="nerf"), 0)


def test_ray_that_is_not_there_is_told(work, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"harmonizer-ns\[ray\]"):
        run(work, "x", "--ray")


def test_ray_makes_the_same(work, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    try:
        made = run_real(work, "y", "--ray")
    finally:
        ray.shutdown()
    assert made == run_real(work, "x")
