# SPDX-License-Identifier: Apache-2.0
"""What the photos give is found once and kept; whatever it depends on is looked at again when it changes."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from subprocess import PIPE, Popen

import pytest
import torch
from solids import changed

from harmonizer_ns.captures.frame import Similarity
from harmonizer_ns.stereo import geometry, matching
from harmonizer_ns.stereo.depth import estimate_depth
from harmonizer_ns.stereo.fusion import fuse
from harmonizer_ns.stereo.geometry import photo_geometry
from harmonizer_ns.stereo.settings import StereoSettings


@pytest.fixture(autouse=True)
def _without_the_extra(monkeypatch):
    monkeypatch.setattr(matching, "find_spec", lambda name: None)


@pytest.fixture
def split(photos):
    return replace(photos, train=(5, 0, 2, 4), test=(1, 3))


@pytest.fixture
def sweeps(monkeypatch):
    """Grows with every capture that is looked at."""
    looked = []

    def look(capture, *rest):
        looked.append(capture)
        return estimate_depth(capture, *rest)

    monkeypatch.setattr(geometry, "estimate_depth", look)
    return looked


def same(one, other):
    for a, b in zip(one.maps, other.maps, strict=True):
        assert torch.equal(a.depth, b.depth)
        assert torch.equal(a.confidence, b.confidence)
        assert torch.equal(a.camera.intrinsics, b.camera.intrinsics)
        assert (a.camera.width, a.camera.height, a.witnesses) == (b.camera.width, b.camera.height, b.witnesses)
    for name in ("points", "colors", "normals"):
        assert torch.equal(getattr(one.seeds, name), getattr(other.seeds, name))


def test_what_was_found_is_read_again_bit_by_bit(split, tmp_path, sweeps):
    said = []
    first = photo_geometry(split, tmp_path, say=said.append)
    assert "4 photos" in said[0]
    assert f"{len(first.seeds):,} seed points" in said[1]
    (tmp_path / "geometry" / "mine.txt").write_text("stays")
    again = photo_geometry(replace(split, _cache={}), tmp_path, say=said.append)
    same(first, again)
    assert (len(sweeps), len(said)) == (1, 2)
    maps = estimate_depth(split)
    assert len(first.maps) == len(split.train)
    assert all(torch.equal(a.depth, b.depth) for a, b in zip(first.maps, maps, strict=True))
    assert torch.equal(first.seeds.points, fuse(split.part(split.train), maps).points)
    assert sorted(file.suffix for file in (tmp_path / "geometry").iterdir()) == [".safetensors", ".txt"]


def test_held_out_photos_are_not_used(split, tmp_path, sweeps):
    first = photo_geometry(split, tmp_path)
    other = changed(split, lambda i, photo: 1 - photo if i in split.test else photo)
    same(first, photo_geometry(other, tmp_path))
    assert len(sweeps) == 1


def _masked(capture):
    mask = torch.ones(1, 72, 96, dtype=torch.bool)
    mask[:, :, :30] = False
    return replace(capture, read=lambda i: (capture.photo(i), mask), _cache={})


def _moved(capture):
    way = torch.eye(4, dtype=torch.float64)
    way[0, 3] = 0.5
    return capture.moved(Similarity(way))


@pytest.mark.parametrize(
    "change",
    [
        lambda capture: changed(capture, lambda i, photo: photo * 0.9 if i == 2 else photo),
        lambda capture: replace(capture, points=capture.points[1:], colors=capture.colors[1:]),
        lambda capture: replace(capture, seen=[torch.arange(50)] * len(capture)),
        lambda capture: replace(capture, train=(0, 2, 4)),
        _masked,
        _moved,
    ],
    ids=["pixels", "points", "tracks", "split", "masks", "cameras"],
)
def test_whatever_it_depends_on_is_looked_at_again(split, tmp_path, monkeypatch, change):
    looks = []
    monkeypatch.setattr(geometry, "read_geometry", lambda path, cameras: pytest.fail("of something else"))
    monkeypatch.setattr(geometry, "estimate_depth", lambda capture, *rest: looks.append(capture) or [])
    for capture in (split, change(split)):
        photo_geometry(capture, tmp_path)
    photo_geometry(split, tmp_path / "b", StereoSettings(width=64))
    assert len(looks) == 3
    assert len({file.name for file in tmp_path.rglob("*.safetensors")}) == 3


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: data[:-100] + bytes(100), lambda data: b"", lambda data: b"{}"],
    ids=["cut", "overwritten", "empty", "another file"],
)
def test_a_damaged_file_is_told_and_made_again(split, tmp_path, damage):
    first = photo_geometry(split, tmp_path)
    (file,) = (tmp_path / "geometry").iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    said = []
    same(first, photo_geometry(split, tmp_path, say=said.append))
    assert str(file) in said[0]
    assert "\n" not in said[0]
    assert "again" in said[0]
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_told(split, tmp_path):
    (tmp_path / "geometry").write_text("in the way")
    said = []
    found = photo_geometry(split, tmp_path, say=said.append)
    assert len(found.seeds) > 100
    for line in (said[0], said[-1]):  # no lock, no file
        assert "cannot write" in line
        assert "\n" not in line
    assert (tmp_path / "geometry").read_text() == "in the way"


def test_runs_that_begin_together_look_once(split, tmp_path, sweeps):
    said = [[], [], []]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda heard: photo_geometry(split, tmp_path, say=heard.append), said))
    same(found[0], found[1])
    same(found[0], found[2])
    assert len(sweeps) == 1
    looking, *waiting = sorted(said, key=len, reverse=True)
    assert looking[0].startswith("Looking")
    for heard in waiting:
        assert len(heard) == 1
        assert "Waiting for" in heard[0]
        assert str(tmp_path) in heard[0]
    assert [file.suffix for file in (tmp_path / "geometry").iterdir()] == [".safetensors"]


def test_a_run_takes_the_turn_of_one_that_was_killed(split, tmp_path, sweeps):
    photo_geometry(split, tmp_path)
    (file,) = (tmp_path / "geometry").iterdir()
    file.unlink()
    turn = file.parent / f".{file.stem[:40]}.partial"
    code = f"""
import os, signal
from pathlib import Path
from harmonizer_ns.files import locked
with locked(Path({str(turn)!r})):
    print("held", flush=True)
    input()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        said = []

        def heard(line):
            said.append(line)
            if "Waiting" in line:
                other.stdin.write("\n")
                other.stdin.flush()

        photo_geometry(split, tmp_path, say=heard)
    assert f"Waiting for process {other.pid}" in said[0]
    assert "Looking" in said[1]
    assert list(file.parent.iterdir()) == [file]


def test_nothing_in_common_is_kept_as_well(photos, tmp_path):
    alone = replace(photos, train=(2,), test=(0, 1, 3, 4, 5))
    for _ in range(2):
        found = photo_geometry(alone, tmp_path)
        assert len(found.seeds) == 0
        assert not found.maps[0].depth.any()
