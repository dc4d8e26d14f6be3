# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch

from harmonizer_ns.enhancers.builtin.enhancer import BuiltinEnhancer
from harmonizer_ns.images import load_image
from harmonizer_ns.training.builtin.augment import AugmentConfig
from harmonizer_ns.training.builtin.samples import load_samples
from harmonizer_ns.training.builtin.train import EAGERNESS, BuiltinTrainingConfig, calibrate, split, thinned, train
from harmonizer_ns.training.builtin.validation import score, validate


@pytest.fixture
def folder(tmp_path, write_samples):
    return write_samples(tmp_path / "samples")


def _config(folder, output, **changes) -> BuiltinTrainingConfig:
    augment = AugmentConfig(crop=32, drop_references=0, show_previous=0, clean=0, near_clean=0)
    values = {"steps": 60, "batch": 2, "warm_up": 5, "learning_rate": 4e-3, "average": 0.8, "validate_every": 60}
    return BuiltinTrainingConfig(samples=folder, output=output, augment=augment, **(values | changes))


def test_a_few_steps_learn_to_take_true_photos(folder, tmp_path):
    """On damage that photos show exactly, sixty small steps gain over 1 dB on a scene that was not trained on."""
    figures = train(_config(folder, tmp_path / "out", data="noise"))["references"]["mean"]
    assert figures["output"] > figures["render"] + 1.0
    report = json.loads((tmp_path / "out" / "training.json").read_text())
    assert report["training_scenes"] == ["scene0", "scene1"]
    assert report["figures"]["references"]["mean"] == figures
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{figures['output']:.2f}" in card
    assert str(tmp_path) not in card + json.dumps(report)
    assert [step for step, _ in report["curves"]["test/output"]] == [60]
    assert "(curves.png)" in card
    assert load_image(tmp_path / "out" / "curves.png").std() > 0
    assert BuiltinEnhancer.from_pretrained(tmp_path / "out").metadata["licence"] == "Apache-2.0"


def test_training_is_reproducible_and_can_start_from_a_checkpoint(folder, tmp_path):
    for name in ("a", "b"):
        train(_config(folder, tmp_path / name, steps=3, validate_every=3))
    a, b = (BuiltinEnhancer.from_pretrained(tmp_path / name).network.state_dict() for name in ("a", "b"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    train(_config(folder, tmp_path / "c", steps=1, learning_rate=0.0, initial=tmp_path / "a"))
    c = BuiltinEnhancer.from_pretrained(tmp_path / "c").network.state_dict()
    assert all(torch.allclose(a[name], c[name], atol=1e-6) for name in a)


def test_stages_are_remembered(folder, tmp_path):
    train(_config(folder, tmp_path / "a", steps=2))
    train(_config(folder, tmp_path / "b", steps=3, initial=tmp_path / "a"))
    stages = BuiltinEnhancer.from_pretrained(tmp_path / "b").metadata["stages"]
    assert [stage["steps"] for stage in stages] == [2, 3]
    assert "5 steps in 2 stages" in (tmp_path / "b" / "README.md").read_text()


def test_calibration_takes_what_good_pixels_can_bear(folder, tmp_path):
    """Tolerating more never makes it more timid; what it chose is saved, within the tolerance, best to learn from."""
    output = tmp_path / "out"
    train(_config(folder, output, steps=20))
    held_out = split(load_samples(folder), ())[1]
    chosen = [calibrate(output, held_out, tolerance) for tolerance in (0.0, 0.5, 100.0)]
    assert chosen == sorted(chosen)
    assert len({boldness for _, boldness in chosen}) == 1
    network = BuiltinEnhancer.from_pretrained(output).network
    assert (network.bias_when_shown, network.bias_when_learned) == chosen[-1]
    losses = {}
    for network.bias_when_shown in EAGERNESS:
        losses[network.bias_when_shown] = validate(network, held_out)["mean"]["loss"]
    assert losses[network.bias_when_learned] == min(losses.values()) < 1
    calibrate(output, held_out, 0.5)
    figures = validate(BuiltinEnhancer.from_pretrained(output).network, held_out)["mean"]
    assert figures["good_render"] - figures["good_output"] <= 0.5


def test_scenes_are_split_whole(folder):
    samples = load_samples(folder)
    for held_out, expected in ((("scene0",), {"scene0"}), ((), {"scene2"})):
        training, validation = split(samples, held_out)
        assert {s.scene for s in validation} == expected
        assert not {s.scene for s in training} & expected
    with pytest.raises(ValueError, match="nowhere"):
        split(samples, ("nowhere",))
    with pytest.raises(ValueError, match="0 training"):
        split(samples, ("scene0", "scene1", "scene2"))


def test_thinning_keeps_some_of_each_scene(folder):
    samples = load_samples(folder)
    kept = thinned(samples * 5, 2)
    assert {s.scene for s in kept} == {"scene0", "scene1", "scene2"}
    assert len(kept) == 6


def test_the_score_weighs_gains_against_good_pixels():
    fair = {"render": 25, "output": 25.5, "good_render": 40, "good_output": 39.96}
    greedy = {"render": 25, "output": 25.52, "good_render": 40, "good_output": 39.5}
    assert score(fair) == pytest.approx(0.5)
    assert score(greedy) < score(fair)
