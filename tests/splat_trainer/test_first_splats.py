# SPDX-License-Identifier: Apache-2.0
"""Splats begin at the capture's points, at those that its photos give, or at both."""

from dataclasses import replace

import pytest
import torch
from splat_runs import CPU, go, tiny

from gsplat_trainer.config import McmcConfig, check
from gsplat_trainer.scene import load_data
from gsplat_trainer.trainer import Trainer
from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.errors import InputError
from harmonizer_ns.splats.model import seed_splats
from harmonizer_ns.stereo import geometry


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """What photos give is shared by the tests."""
    return tmp_path_factory.mktemp("geometry")


def begun(config, scene: Capture | None = None) -> dict[str, torch.Tensor]:
    check(config)
    return dict(Trainer(config, load_data(config) if scene is None else scene, CPU).splats.items())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_points(scene: Capture) -> Capture:
    return replace(scene, points=torch.zeros(0, 3), colors=torch.zeros(0, 3), seen=None)


def of_fog(scene: Capture) -> Capture:
    """Photos that show nothing that could be matched."""
    return replace(scene, read=lambda index: (torch.full((3, 48, 64), 128 + index, dtype=torch.uint8), None), _cache={})


def test_the_capture_s_seeds_are_as_ever(colmap, tmp_path, monkeypatch):
    monkeypatch.setattr(geometry, "estimate_depth", lambda *_: pytest.fail("looked at the photos"))
    config = tiny(colmap, tmp_path, seeds="capture")
    scene = load_data(config)
    quats = torch.rand(len(scene.points), 4, generator=torch.Generator().manual_seed(config.seed))
    wanted = seed_splats(scene.points, scene.colors, config.sh_degree, 0.1, 1.0, quats)
    assert same(begun(config), wanted)
    assert not (tmp_path / "geometry").exists()


@pytest.mark.parametrize("kind", [None, McmcConfig])
def test_seeds_of_the_photos_lie_flat_behind_the_capture_s(colmap, tmp_path, kept, kind):
    kinds = {} if kind is None else {"kind": kind}
    config = tiny(colmap, tmp_path, **kinds, geometry_dir=kept)
    scene = load_data(config)
    own = len(scene.points)
    both, dense = begun(replace(config, seeds="auto")), begun(replace(config, seeds="dense"))
    assert torch.equal(both["means"][:own], scene.points)
    assert torch.equal(both["means"][own:], dense["means"])
    assert len(dense["means"]) > own
    round_, flat = both["scales"][:own], both["scales"][own:]
    assert (round_ == round_[:, :1]).all()
    assert (flat[:, 2] < flat[:, 0]).float().mean() > 0.5


def test_a_run_begins_at_its_photos_seeds_and_looks_once(colmap, tmp_path, kept, monkeypatch):
    config = tiny(colmap, tmp_path / "a", seeds="auto", geometry_dir=kept, max_steps=6, enhancer="none")
    run = go(config)
    assert len(run.splats["means"]) > 2 * len(run.scene.points)
    monkeypatch.setattr(geometry, "estimate_depth", lambda *_: pytest.fail("looked again"))
    resumed = go(replace(config, max_steps=8, resume=tmp_path / "a"))
    assert resumed.first_step == 6
    again = go(replace(config, result_dir=tmp_path / "b"))
    assert torch.equal(again.splats["means"], run.splats["means"])


def test_what_was_found_is_kept_in_the_result_folder(colmap, tmp_path):
    begun(tiny(colmap, tmp_path, seeds="dense"))
    assert [file.suffix for file in (tmp_path / "geometry").iterdir()] == [".safetensors"]


def test_held_out_photos_give_no_seeds(colmap, tmp_path, kept):
    config = tiny(colmap, tmp_path, seeds="auto", geometry_dir=kept)
    scene = load_data(config)
    assert scene.test

    def read(index):
        photo, mask = scene.read(index)
        return (255 - photo if index in scene.test else photo), mask

    assert same(begun(config, scene), begun(config, replace(scene, read=read, _cache={})))


def test_masked_pixels_give_no_seeds(colmap, tmp_path):
    config = tiny(colmap, tmp_path, seeds="dense")
    scene = load_data(config)
    mask = torch.ones(1, 48, 64, dtype=torch.bool)
    mask[..., :32] = False
    masked = begun(config, replace(scene, read=lambda i: (scene.photo(i), mask), _cache={}))
    assert 100 < len(masked["means"]) < 0.7 * len(begun(config, scene)["means"])


@pytest.mark.parametrize("seeds", ["auto", "dense"])
def test_a_capture_without_points_is_trained_from_its_photos(colmap, tmp_path, kept, seeds):
    config = tiny(colmap, tmp_path, seeds=seeds, geometry_dir=kept)
    bare = without_points(load_data(config))
    splats = begun(config, bare)
    assert len(splats["means"]) > 500
    with pytest.raises(InputError, match="has 0 seed points, at least 4"):
        begun(replace(config, seeds="capture"), bare)


def test_photos_that_match_nothing(colmap, tmp_path, capsys):
    config = tiny(colmap, tmp_path, seeds="auto")
    scene = of_fog(load_data(config))
    assert same(begun(config, scene), begun(replace(config, seeds="capture"), scene))
    assert "match too little" in capsys.readouterr().out
    with pytest.raises(InputError, match="match too little"):
        begun(replace(config, seeds="dense"), scene)


def test_random_points_need_no_photos(colmap, tmp_path, monkeypatch):
    monkeypatch.setattr(geometry, "estimate_depth", lambda *_: pytest.fail("looked at the photos"))
    config = tiny(colmap, tmp_path, seeds="auto", init_type="random", init_num_pts=50)
    assert len(begun(config)["means"]) == 50


def test_random_points_need_no_seeds_of_the_photos(colmap, tmp_path):
    """Also where these are looked at for their depth, and give nothing."""
    config = tiny(colmap, tmp_path, init_type="random", init_num_pts=50, seeds="dense", depth_weight=0.1)
    assert len(begun(config, of_fog(load_data(config)))["means"]) == 50
