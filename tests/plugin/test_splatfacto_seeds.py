# SPDX-License-Identifier: Apache-2.0
"""Splatfacto begins where the settings say: at the capture's points, at those that its photos give, or at both."""

import pytest
import torch
from runs import run, start, tiny_config
from toy import write_points

from harmonizer_ns.plugin.models import begin_at
from harmonizer_ns.stereo import geometry
from harmonizer_ns.stereo.fusion import Seeds


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """What photos give is shared by the tests."""
    return tmp_path_factory.mktemp("geometry")


def begun(capture, output, **settings):
    options = {f"pipeline__{name}": value for name, value in settings.items()}
    return start(tiny_config(capture, output, **options)).pipeline.model


@pytest.fixture
def never_looking(monkeypatch):
    monkeypatch.setattr(geometry, "estimate_depth", lambda *_: pytest.fail("looked at the photos"))


def test_the_capture_s_seeds_are_upstream_s(capture, tmp_path, never_looking):
    model = begun(capture, tmp_path, seeds="capture")
    assert torch.equal(model.means, model.seed_points[0])
    assert (model.scales == model.scales[:, :1]).all()


def test_seeds_of_the_photos_lie_flat_behind_the_capture_s(capture, tmp_path, kept):
    both, dense = (begun(capture, tmp_path / kind, seeds=kind, geometry_dir=kept) for kind in ("auto", "dense"))
    own = len(both.seed_points[0])
    torch.testing.assert_close(both.means[:own], both.seed_points[0])
    torch.testing.assert_close(both.colors[:own], both.seed_points[1].float() / 255)
    assert torch.equal(both.means[own:], dense.means)
    assert (both.scales[:own] == both.scales[:own, :1]).all()
    assert (both.scales[own:, 2] < both.scales[own:, 0]).float().mean() > 0.5
    assert {name: value.shape[1:] for name, value in both.gauss_params.items()} == {
        name: value.shape[1:] for name, value in begun(capture, tmp_path / "c").gauss_params.items()
    }


@pytest.mark.parametrize("degree", [0, 2])
def test_seed_colours_become_the_base_colour(capture, tmp_path, degree):
    model = begun(capture, tmp_path)
    model.config.sh_degree = degree
    colors = torch.rand(30, 3) * 0.8 + 0.1
    begin_at(model, Seeds(torch.rand(30, 3), colors, torch.zeros(30, 3)))
    torch.testing.assert_close(model.colors, colors)


def test_a_run_its_baseline_and_its_resumption_look_once(capture, tmp_path, mixer, monkeypatch):
    looks, look = [], geometry.estimate_depth
    monkeypatch.setattr(geometry, "estimate_depth", lambda *arguments: looks.append(1) or look(*arguments))
    config = tiny_config(capture, tmp_path, pipeline__seeds="auto", compare_to_baseline=True, max_num_iterations=12)
    first = run(config)
    assert [file.suffix for file in (first.base_dir / "geometry").iterdir()] == [".safetensors"]
    assert not (first.base_dir / "baseline" / "geometry").exists()
    assert len(looks) == 1
    more = tiny_config(capture, tmp_path, pipeline__seeds="auto", timestamp="more", max_num_iterations=14)
    more.load_dir, more.final_report = first.checkpoint_dir, False
    resumed = run(more)
    assert resumed.step == 13
    assert len(looks) == 1


def test_a_capture_without_points_begins_at_its_photos(own_capture, tmp_path, kept):
    for count in (0, 2):
        write_points(own_capture / "points.ply", torch.rand(count, 3), torch.rand(count, 3))
        model = begun(own_capture, tmp_path / str(count), seeds="auto", geometry_dir=kept)
        assert 500 < len(model.means) < 10_000


def test_random_points_and_nerfs_need_no_photos(capture, tmp_path, never_looking):
    config = tiny_config(capture, tmp_path, pipeline__seeds="auto")
    config.pipeline.model.random_init, config.pipeline.model.num_random = True, 60
    assert len(start(config).pipeline.model.means) == 60
    start(tiny_config(capture, tmp_path / "nerf", nerf=True, pipeline__seeds="auto"))
