# SPDX-License-Identifier: Apache-2.0
"""What the built-in network sees in training: views warped once, and crops of them."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clip_toys import write_scenes
from pair_toys import HEIGHT, WIDTH, plane_pair, truncate, write_pair
from safetensors.torch import load_file, save_file

from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.builtin.enhancer import gather_inputs
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import load_image, save_image, to_float
from harmonizer_ns.pairs import Pair, read_pairs, write_pairs
from harmonizer_ns.training.builtin.augment import random_crop
from harmonizer_ns.training.builtin.config import AugmentConfig, BuiltinConfig
from harmonizer_ns.training.builtin.data import BuiltinData
from harmonizer_ns.training.builtin.views import SLOTS, WarpedView, show, warp_view
from harmonizer_ns.training.config import DataConfig
from harmonizer_ns.types import Frames

CROP = DataConfig(height=32, width=32, references=3)
PLAIN = AugmentConfig(
    drop_references=0, show_previous=0, clean=0, near_clean=0, jitter=0, exposure=0
)  # nothing random but the window, flips and the order of references


def clip_of(folder: Path) -> list[Pair]:
    """Two frames with geometry; both have one camera."""
    return [write_pair(folder, f"f{i}", 2, geometry=True, clip="c", frame=i) for i in range(2)]


@pytest.fixture
def view(tmp_path) -> WarpedView:
    """A square view of a plane whose second half is damaged, and two photos that show the truth from beside."""
    return warp_view(plane_pair(tmp_path, baseline=0.1))


# --- views ---


def test_the_network_sees_what_the_enhancer_would_show_it(tmp_path):
    """Photos and the neighbouring frame of a pair are warped as the enhancer warps them when it runs."""
    pair, neighbour = clip_of(tmp_path)
    inputs = show(warp_view(pair, neighbour), previous=0.0).inputs
    frames = [_frames(one) for one in (pair, neighbour)]
    (render, photos), (before, _) = frames
    wanted = gather_inputs(render, Context((photos,), history=(before,)), 3)
    shown = [0, 1, SLOTS - 1]
    visible = wanted.valid[0].expand(-1, 3, -1, -1) > 0.01
    assert 0.2 < visible.float().mean() < 1
    torch.testing.assert_close(inputs.warps[0, shown][visible], wanted.warps[0][visible], atol=3e-3, rtol=0)
    torch.testing.assert_close(inputs.valid[:, shown], wanted.valid, atol=3e-3, rtol=0)
    torch.testing.assert_close(inputs.cues[:, shown], wanted.cues, atol=3e-3, rtol=0)
    assert torch.equal(inputs.is_previous[:, shown], wanted.is_previous)
    torch.testing.assert_close(inputs.render, wanted.render)
    torch.testing.assert_close(inputs.alpha, wanted.alpha, atol=3e-3, rtol=0)
    torch.testing.assert_close(inputs.inverse_depth, wanted.inverse_depth, atol=3e-3, rtol=0)


def _frames(pair: Pair) -> tuple[Frames, Frames]:
    """A pair's image and its photos, read by hand."""
    depths = load_file(pair.depth)
    photos = torch.stack([load_image(path) for path in pair.references])
    image = load_image(pair.image)[None]
    seen = Frames(photos, torch.ones(2, 1, HEIGHT, WIDTH), depths["reference_depths"][:, None], pair.cameras[1:])
    return Frames(image, depths["alpha"][None, None], depths["depth"][None, None], pair.cameras[0]), seen


def test_the_neighbour_of_a_clip_is_shown_as_truth_and_as_render(tmp_path):
    """Both frames have one camera, so the neighbour arrives where it was: blue tells truth (0.8) and render (0.2)."""
    view = warp_view(*clip_of(tmp_path))
    assert (to_float(view.previous_valid) > 0.9).all()
    for share, blue in ((1.0, 0.8), (0.0, 0.2), (0.5, 0.5)):
        seen = show(view, previous=share).inputs.warps[0, -1, 2]
        torch.testing.assert_close(seen, torch.full((HEIGHT, WIDTH), blue), atol=3e-3, rtol=0)


def test_a_pair_without_geometry_has_no_candidates(tmp_path):
    view = warp_view(write_pair(tmp_path, "photo", 2))
    assert (view.pair.scene, view.pair.stream) == ("photo", "")
    assert len(view.warps) == 0
    assert not view.previous_valid.any()
    assert not view.inverse_depth.any()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_references_fills_the_same_slots(tmp_path, count):
    pair = plane_pair(tmp_path, 0.1)
    photos, cameras = (pair.references * 2)[:count], pair.cameras[[0, 1, 2, 1, 2][: 1 + count]]
    plane = torch.full((96, 96), 4.0)
    save_file({"depth": plane, "reference_depths": plane.repeat(count, 1, 1)}, pair.depth)
    valid = show(warp_view(replace(pair, references=photos, cameras=cameras))).inputs.valid
    assert (valid.flatten(2).amax(2) > 0.9).tolist() == [[True] * count + [False] * (SLOTS - count)]


# --- crops ---


@pytest.mark.parametrize("baseline", [0.3, 0.6, 1.0])
def test_crops_keep_the_coverage_of_photos(tmp_path, baseline):
    """A photo covers a crop wherever it covers the whole view: it is not cut where the crop ends."""
    view = warp_view(plane_pair(tmp_path, baseline, 192, 108))
    whole, chance = show(view).inputs.valid, random.Random(0)
    covered = []
    for _ in range(20):
        top, left = (4 * chance.randrange((side - 64) // 4 + 1) for side in whole.shape[-2:])
        window = (slice(top, top + 64), slice(left, left + 64))
        crop = show(view, window=window).inputs.valid
        assert torch.equal(crop, whole[..., window[0], window[1]])
        covered.append((crop[0, :2] > 0.5).float().mean())
    assert torch.stack(covered).mean() > 1 - 1.2 * baseline / 4


def test_crops_are_reproducible(view):
    first, second, other = (random_crop(view, CROP, AugmentConfig(), random.Random(s)) for s in (3, 3, 4))
    assert torch.equal(first.inputs.warps, second.inputs.warps)
    assert torch.equal(first.target, second.target)
    assert not torch.equal(first.target, other.target)


def test_flips_move_everything_together(view):
    """Without other variation warps stay the truth, and renders are right where they were good."""
    for seed in range(10):
        batch = random_crop(view, CROP, PLAIN, random.Random(seed))
        seen = (batch.inputs.valid[0, :2] > 0.99).expand(-1, 3, -1, -1)
        error = (batch.inputs.warps[0, :2] - batch.target).abs()[seen]
        assert error.mean() < 0.01
        difference = (batch.inputs.render - batch.target).abs().amax(1, keepdim=True)
        if batch.good.any() and not batch.good.all():
            assert difference[batch.good].max() <= difference[~batch.good].min()


def test_colours_vary_alike_in_all_images(view):
    config = replace(PLAIN, jitter=0.3)
    batch, plain = (random_crop(view, replace(CROP, flip=False), c, random.Random(1)) for c in (config, PLAIN))
    assert batch.target.mean() != plain.target.mean()
    seen = (batch.inputs.valid[0, :2] > 0.99).expand(-1, 3, -1, -1)
    assert (batch.inputs.warps[0, :2] - batch.target).abs()[seen].mean() < 0.02


def test_clean_crops_are_the_truth_and_candidates_come_and_go(view):
    batch = random_crop(view, CROP, AugmentConfig(clean=1.0, jitter=0), random.Random(0))
    assert torch.equal(batch.inputs.render, batch.target)
    crops = [random_crop(view, CROP, AugmentConfig(), random.Random(s)) for s in range(40)]
    assert {int((c.inputs.valid[0, :3] > 0).flatten(1).any(1).sum()) for c in crops} == {0, 1, 2}
    few = [random_crop(view, replace(CROP, references=1), AugmentConfig(), random.Random(s)) for s in range(10)]
    assert {int((c.inputs.valid[0, :3] > 0).flatten(1).any(1).sum()) for c in few} == {0, 1}


# --- data ---


def config_of(path: Path, **changes) -> BuiltinConfig:
    data = DataConfig(height=32, width=32, zoom=1.0, batch=4, references=3, validation_pairs=3)
    values = {"augment": changes.pop("augment", AugmentConfig()), "cache": changes.pop("cache", 1.0)}
    return BuiltinConfig((path,), path.parent / "out", "new", data=replace(data, **changes), **values)


def test_scenes_are_held_out_whole(tmp_path):
    path = write_scenes(tmp_path)
    for scenes, expected in (((), ["scene2"]), (("scene0",), ["scene0"])):
        data = BuiltinData(config_of(path, held_out=scenes))
        assert sorted({view.pair.scene for view in data.held_out()}) == expected
        assert data.scenes == sorted({"scene0", "scene1", "scene2"} - set(expected))
        assert len(data.validation()) == 3
        assert len(list(data.held_out())) == 4
    with pytest.raises(InputError, match="nowhere: no pair is of that scene; there are scene0, scene1, scene2"):
        BuiltinData(config_of(path, held_out=("nowhere",)))
    with pytest.raises(InputError, match="nothing is left to train on"):
        BuiltinData(config_of(path, held_out=("scene0", "scene1", "scene2")))
    content = read_pairs(path)
    write_pairs(path, content.train)
    with pytest.raises(InputError, match=r"no pair is held out.*--data.held-out"):
        BuiltinData(config_of(path))


def test_memory_for_views_is_bounded_and_changes_nothing(tmp_path):
    path = write_scenes(tmp_path)
    kept, warped_anew = (BuiltinData(config_of(path, cache=cache)) for cache in (1.0, 0.0))
    for step in (1, 2, 3):
        assert torch.equal(kept.batch(step, 0).inputs.warps, warped_anew.batch(step, 0).inputs.warps)


def test_processes_together_see_the_batch_of_one(tmp_path):
    path = write_scenes(tmp_path)
    one = BuiltinData(config_of(path)).batch(2, 0)
    two = [BuiltinData(config_of(path, batch=2), rank, 2).batch(2, 0) for rank in (0, 1)]
    assert torch.equal(one.inputs.render, torch.cat([part.inputs.render for part in two]))


def test_the_fingerprint_tells_other_content_but_not_other_places(tmp_path):
    path = write_scenes(tmp_path / "a")
    before = BuiltinData(config_of(path)).fingerprint()
    moved = write_scenes(tmp_path / "b")
    assert BuiltinData(config_of(moved)).fingerprint() == before
    assert BuiltinData(config_of(moved, held_out=("scene0",))).fingerprint() != before
    image = tmp_path / "b" / "scene0" / "image_1.png"
    save_image(image, load_image(image).flip(-1))
    assert BuiltinData(config_of(moved)).fingerprint() != before


def test_bad_input_is_named(tmp_path):
    path = write_scenes(tmp_path)
    with pytest.raises(InputError, match=r"crops of 96x32 pixels do not fit into .*image_\d\.png, which is 48x32"):
        BuiltinData(config_of(path, width=96))
    truncate(tmp_path / "scene1" / "target_2.png")
    with pytest.raises(InputError, match=r"cannot read .*target_2\.png as an image"):
        BuiltinData(config_of(path))


def test_options_that_would_do_nothing_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"leave them out: --data.zoom \(crops are not resized\)"):
        config_of(tmp_path / "pairs.json", zoom=1.5)
