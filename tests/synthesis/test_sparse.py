# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from toy import capture_of

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.images import to_float, to_uint8
from harmonizer_ns.splats.fit import SplatConfig
from harmonizer_ns.splats.held_out import SparseFit, every_nth
from harmonizer_ns.synthesis import sparse
from harmonizer_ns.synthesis.sparse import Setting, SparseConfig, build_sample, draw_settings, write_setting
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.warp import backproject


class WallRenderer:
    """A textured wall at z = 4; renders are 0.2 too bright, so that photos and renders can be told apart."""

    def __init__(self, excess: float = 0.2) -> None:
        self.excess = excess

    def render(self, cameras: Cameras) -> Frames:
        depth = torch.full((len(cameras), 1, cameras.height, cameras.width), 4.0)
        x, y, _ = backproject(depth, cameras).unbind(-1)
        rgb = torch.stack([0.4 + 0.2 * torch.sin(a * x + b * y) for a, b in ((3, 1), (1, 4), (2, -2))], dim=1)
        return Frames(to_float(to_uint8(rgb)) + self.excess, torch.ones_like(depth), depth, cameras)


@pytest.fixture
def wall() -> Capture:
    pose = torch.eye(4).repeat(8, 1, 1)
    pose[:, 0, 3] = 0.25 * torch.arange(8)
    intrinsics = torch.tensor([[40.0, 0, 24], [0, 40.0, 16], [0, 0, 1]]).repeat(8, 1, 1)
    photos = list(WallRenderer(0.0).render(Cameras(pose, intrinsics, 48, 32)))
    points = backproject(photos[4].depth, photos[4].cameras)[0, ::4, ::4].reshape(-1, 3)
    return capture_of("wall", tuple(f"images/{i}.png" for i in range(8)), photos, points)


def config(output: Path, **changes) -> SparseConfig:
    splat = SplatConfig(max_gaussians=300)
    return replace(SparseConfig(scenes=(), output=output, steps=(8, 16), views=3, near_clean=2, splat=splat), **changes)


def test_warps_line_up_with_the_target(wall):
    sample = build_sample(SparseFit(wall, every_nth(8, 3), WallRenderer()), view=4)
    target = sample["target"].int()
    assert len(sample["warps"]) == 3
    for warp, valid in zip(sample["warps"].int(), sample["valid"], strict=True):
        seen = (valid > 128).expand(3, -1, -1)
        assert seen.float().mean() > 0.4
        assert (warp - target).abs()[seen].max() <= 12
    assert (sample["render"].int() - target - 51).abs().max() <= 1


def test_previous_is_the_neighbouring_photo_and_then_its_render(wall):
    sample = build_sample(SparseFit(wall, every_nth(8, 3), WallRenderer()), view=4)
    seen = (sample["previous_valid"] > 128).expand(-1, 3, -1, -1)
    difference = sample["previous"].int() - sample["target"].int()
    assert seen.float().mean() > 0.8
    assert difference[0][seen[0]].abs().max() <= 12
    assert (difference[1] - 51)[seen[1]].abs().max() <= 12


@pytest.mark.parametrize(("view", "neighbour"), [(4, 5), (5, 4), (1, 2), (0, 1), (7, 6)])
def test_the_neighbour_was_not_fitted_where_possible(wall, view, neighbour):
    frames = sparse.neighbour_frames(SparseFit(wall, every_nth(8, 3), WallRenderer()), view)  # 0, 3 and 6 are fitted
    assert frames.cameras.centers[0, 0].item() == pytest.approx(0.25 * neighbour)


def test_a_fitted_view_never_has_itself_as_reference(wall):
    sample = build_sample(SparseFit(wall, every_nth(8, 3), WallRenderer()), view=3)
    centers = sample["camera_to_world"][:, 0, 3].tolist()
    assert centers[0] == pytest.approx(0.75)
    assert all(abs(center - centers[0]) > 0.1 for center in centers[1:])


def test_a_view_without_any_reference_still_makes_a_sample(wall):
    sample = build_sample(SparseFit(wall, every_nth(8, 8), WallRenderer()), view=0)
    assert sample["warps"].shape == (0, 3, 32, 48)
    assert sample["camera_to_world"].shape == (1, 4, 4)


def test_files_have_the_agreed_format(wall, tmp_path):
    assert write_setting(wall, Setting(every=3, steps=12, offset=1), config(tmp_path)) == 5
    files = sorted((tmp_path / "wall").iterdir())
    assert [f.name for f in files] == [f"n3o1_s12_{view:04d}.safetensors" for view in (0, 1, 3, 6, 7)]
    tensors = load_file(files[0])
    r = len(tensors["warps"])
    assert {name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items()} == {
        "render": ("uint8", (3, 32, 48)),
        "target": ("uint8", (3, 32, 48)),
        "alpha": ("uint8", (1, 32, 48)),
        "depth": ("float16", (1, 32, 48)),
        "warps": ("uint8", (r, 3, 32, 48)),
        "valid": ("uint8", (r, 1, 32, 48)),
        "camera_to_world": ("float32", (1 + r, 4, 4)),
        "intrinsics": ("float32", (1 + r, 3, 3)),
        "previous": ("uint8", (2, 3, 32, 48)),
        "previous_valid": ("uint8", (2, 1, 32, 48)),
    }
    with safe_open(files[0], "pt") as file:
        metadata = file.metadata()
    assert metadata["scene"] == "wall"
    assert (metadata["every"], metadata["steps"], metadata["split"]) == ("3", "12", "train")
    assert (metadata["view"], metadata["near_clean"]) == ("images/0.png", "false")


def test_what_is_there_is_not_made_again_and_what_is_missing_is_made_alike(wall, tmp_path, monkeypatch):
    setting = Setting(every=2, steps=10)
    write_setting(wall, setting, config(tmp_path))
    victim = sorted((tmp_path / "wall").iterdir())[1]
    content = load_file(victim)
    victim.unlink()
    assert write_setting(wall, setting, config(tmp_path)) == 1
    again = load_file(victim)
    assert all(torch.equal(again[name], tensor) for name, tensor in content.items())
    monkeypatch.setattr(sparse, "fit_setting", lambda *_: pytest.fail("fitted although nothing is missing"))
    assert write_setting(wall, setting, config(tmp_path)) == 0


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def broken(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(sparse, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        sparse.write_sample(tmp_path / "a.safetensors", {"x": torch.zeros(1)}, {})
    assert not list(tmp_path.glob("*.safetensors"))


def test_settings_depend_on_seed_and_scene_only_and_vary(wall, tmp_path):
    drawn = draw_settings(wall, config(tmp_path, settings=9, steps=(150, 1200)))
    assert drawn == draw_settings(wall, config(tmp_path / "elsewhere", settings=9, steps=(150, 1200)))
    assert drawn != draw_settings(wall, config(tmp_path, settings=9, steps=(150, 1200), seed=1))
    assert drawn != draw_settings(replace(wall, name="other"), config(tmp_path, settings=9, steps=(150, 1200)))
    assert len({setting.recipe for setting in drawn}) > 6
    assert all(150 <= s.steps <= 1200 and 0 <= s.offset < s.every <= 6 for s in drawn)
    assert all(s.every <= 2 and s.steps >= 600 for s in drawn[2::3])  # the near-clean ones


def test_depth_beyond_float16_stays_finite(wall):
    class Far(WallRenderer):
        def render(self, cameras: Cameras) -> Frames:
            frames = super().render(cameras)
            return Frames(frames.rgb, frames.alpha, frames.depth * 1e6, frames.cameras)

    sample = build_sample(SparseFit(wall, every_nth(8, 3), Far()), view=4)
    assert sample["depth"].isfinite().all()


@pytest.mark.parametrize("change", [{"every": (0, 3)}, {"steps": (20, 10)}])
def test_ranges_must_be_ranges(tmp_path, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        config(tmp_path, **change)
