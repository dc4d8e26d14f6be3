# SPDX-License-Identifier: Apache-2.0
import random

import pytest
import torch
from safetensors.torch import save_file

from harmonizer_ns.images import to_float
from harmonizer_ns.training.builtin.augment import AugmentConfig, random_batch, random_view
from harmonizer_ns.training.builtin.samples import SLOTS, good_pixels, load_sample, load_samples, whole

PLAIN = AugmentConfig(
    crop=32, drop_references=0, show_previous=0, clean=0, near_clean=0, jitter=0, exposure=0
)  # nothing random but the window, flips and the order of references


@pytest.fixture
def samples(tmp_path, write_samples):
    return load_samples(write_samples(tmp_path))


def test_samples_load_in_order_with_their_metadata(samples):
    assert [(s.scene, s.recipe, s.split) for s in samples] == [
        ("scene0", "sparse", "train"),
        ("scene1", "sparse", "train"),
        ("scene2", "sparse", "test"),
    ]
    assert samples[0].cues.shape == (2, 2, 12, 16)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_samples(tmp_path)


def test_a_sample_that_lacks_a_tensor_is_named(tmp_path, sample_tensors):
    tensors = sample_tensors()
    del tensors["alpha"]
    save_file(tensors, str(tmp_path / "x.safetensors"), {"scene": "s"})
    with pytest.raises(ValueError, match=r"x\.safetensors.*alpha"):
        load_sample(tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"y\.safetensors"):
        load_sample(tmp_path / "y.safetensors")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_references_fills_the_same_slots(tmp_path, sample_tensors, count):
    save_file(sample_tensors(count), str(tmp_path / "x.safetensors"), {"scene": "s"})
    batch = whole(load_sample(tmp_path / "x.safetensors"), 16)
    assert batch.inputs.warps.shape[1] == SLOTS
    assert batch.inputs.valid.flatten(2).amax(2).tolist() == [[1.0] * count + [0.0] * (SLOTS - count)]


def test_good_pixels_are_the_better_half():
    render = torch.linspace(0, 1, 100).expand(1, 3, 1, 100)
    good = good_pixels(render, torch.zeros_like(render))
    assert good[0, 0, 0].tolist() == [True] * 50 + [False] * 50


def test_a_whole_view_is_padded_and_its_padding_is_not_good(samples):
    batch = whole(samples[0], 40, previous=1.0)
    assert batch.target.shape[-2:] == (80, 80)
    assert batch.inputs.cues.shape[-2:] == (20, 20)
    assert not batch.good[..., 48:, :].any()
    assert not batch.good[..., 64:].any()
    assert torch.equal(batch.inputs.render[0, :, :48, :64], to_float(samples[0].render))
    assert torch.equal(batch.inputs.warps[0, -1, :, :48, :64], to_float(samples[0].previous[0]))


def test_crops_are_reproducible(samples):
    first, second, other = (random_batch(samples, 4, AugmentConfig(crop=32), random.Random(s)) for s in (3, 3, 4))
    assert torch.equal(first.inputs.warps, second.inputs.warps)
    assert torch.equal(first.target, second.target)
    assert not torch.equal(first.target, other.target)


def test_flips_move_everything_together(samples):
    """Without other variation warps and target stay equal, and render errors stay small where pixels are good."""
    generator = random.Random(0)
    for _ in range(10):
        view = random_view(samples[0], PLAIN, generator)
        assert torch.equal(view["warps"][0], view["target"])
        error = (view["render"] - view["target"]).square().mean(0, keepdim=True)
        good = view["good"] > 0
        if good.any() and not good.all():
            assert error[good].max() <= error[~good].min()


def test_colours_vary_alike_in_all_images(samples):
    config = AugmentConfig(crop=32, drop_references=0, show_previous=0, clean=0, near_clean=0, jitter=0.3, exposure=0)
    view = random_view(samples[0], config, random.Random(1))
    assert torch.allclose(view["warps"][0], view["target"])
    plain = random_view(samples[0], PLAIN, random.Random(1))
    assert view["target"].mean() != plain["target"].mean()


def test_clean_crops_are_the_truth_and_candidates_come_and_go(samples):
    config = AugmentConfig(crop=32, clean=1.0, jitter=0)
    view = random_view(samples[0], config, random.Random(0))
    assert torch.equal(view["render"], view["target"])
    shown = [random_view(samples[0], AugmentConfig(crop=32), random.Random(s))["valid"] for s in range(40)]
    assert {int(v[:3].flatten(1).amax(1).sum()) for v in shown} == {0, 1, 2}
    assert {int(v[3].amax()) for v in shown} == {0, 1}


def test_samples_smaller_than_the_crop_are_refused(samples):
    with pytest.raises(ValueError, match="crops of 96 pixels"):
        random_view(samples[0], AugmentConfig(), random.Random(0))
