# SPDX-License-Identifier: Apache-2.0
"""``harmonizer train builtin``: it learns, calibrates, tells, and can be stopped and continued."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from clip_toys import write_scenes

from harmonizer_ns.enhancers.builtin.enhancer import BuiltinEnhancer
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import asset
from harmonizer_ns.images import load_image
from harmonizer_ns.training.builtin.calibration import BIASES, calibrate
from harmonizer_ns.training.builtin.config import AugmentConfig, BuiltinConfig
from harmonizer_ns.training.builtin.data import BuiltinData
from harmonizer_ns.training.builtin.validation import calibration_error, means, score, validate
from harmonizer_ns.training.config import DataConfig, OptimizerConfig, SavingConfig, ScheduleConfig
from harmonizer_ns.training.setup import train

SMALL = {"shared": 16, "candidate": 8, "trunk": [16, 24, 32], "blocks": [1, 1, 1]}


@pytest.fixture(autouse=True)
def _fresh_processes():
    """Accelerate remembers the precision of a process's first run."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("pairs"), scenes=4)


def config_of(pairs: Path, output: Path, steps: int = 4, **changes) -> BuiltinConfig:
    """A small network on small crops."""
    (pairs.parent / "small.json").write_text(json.dumps(SMALL))
    config = BuiltinConfig(
        (pairs,),
        output,
        str(pairs.parent / "small.json"),
        device="cpu",
        precision="fp32",
        data=DataConfig(height=32, width=32, zoom=1.0, batch=2, references=3, workers=0, validation_pairs=2),
        optimizer=OptimizerConfig(learning_rate=4e-3, average=0.9),
        schedule=ScheduleConfig(max_steps=steps, warm_up=2, decay="cosine"),
        saving=SavingConfig(every=max(steps // 2, 1), validate_every=max(steps // 4, 1), log_every=1, tracker="none"),
        augment=AugmentConfig(clean=0, near_clean=0),
    )
    return replace(config, **changes)


def result(config: BuiltinConfig) -> BuiltinEnhancer:
    return BuiltinEnhancer.from_pretrained(config.output / "enhancer")


def state(config: BuiltinConfig) -> dict:
    return {**result(config).network.state_dict(), **result(config).network.config}


def assert_equal(first: dict, second: dict):
    assert first.keys() == second.keys()
    assert all(torch.equal(v, second[k]) if isinstance(v, torch.Tensor) else v == second[k] for k, v in first.items())


def test_held_out_pairs_improve(pairs, tmp_path):
    """A few hundred small steps, on scenes of which none is the one that is measured."""
    config = config_of(pairs, tmp_path / "run", steps=200, data_note="noise")
    train(config)
    report = json.loads((config.output / "enhancer" / "training.json").read_text())
    figures = report["figures"]["references"]["mean"]
    assert figures["psnr"] > figures["psnr_input"] + 1.0
    assert figures["ssim"] > figures["ssim_input"]
    assert report["training_scenes"] == ["scene0", "scene1", "scene2"]
    assert set(report["figures"]["references"]) == {"scene3", "mean"}
    assert set(report["by_damage"]) == {"sparse", "mean"}
    assert report["figures"]["no_references"]["mean"]["psnr"] < figures["psnr"]
    card = (config.output / "enhancer" / "README.md").read_text()
    assert f"{figures['psnr']:.2f}" in card
    assert "Data: noise. 12 views of 3 training scenes" in card
    assert str(tmp_path) not in card + json.dumps(report)
    assert [step for step, _ in report["curves"]["output, held-out PSNR in dB"]] == [50, 100, 150, 200]
    assert load_image(config.output / "enhancer" / "curves.png").std() > 0
    assert (result(config).network.bias_when_shown, result(config).network.bias_when_learned) == (
        report["bias_when_shown"],
        report["bias_when_learned"],
    )
    assert result(config).metadata["licence"] == "Apache-2.0"


def test_a_resumed_run_is_the_run_that_was_never_stopped(pairs, tmp_path):
    """Also where the best weights are from before the break, or from steps that come again."""
    config = config_of(pairs, tmp_path / "whole", steps=8)
    train(config)
    parts = replace(config, output=tmp_path / "parts", resume=True)
    shutil.copytree(config.output, parts.output, ignore=shutil.ignore_patterns("enhancer", "step-00000008*"))
    assert train(parts).finished
    assert_equal(state(config), state(parts))
    assert result(config).metadata["stages"][0]["steps"] == result(parts).metadata["stages"][0]["steps"]


def test_the_best_weights_are_exported_not_the_last(pairs, tmp_path):
    """Steps that destroy the network, after good ones, do not reach the result."""
    config = config_of(pairs, tmp_path / "run", steps=4)
    train(config)
    ruined = replace(config.optimizer, learning_rate=1.0, average=0.0)
    train(replace(config, output=tmp_path / "ruined", model=str(config.output / "enhancer"), optimizer=ruined))
    scores = [json.loads(line) for line in (tmp_path / "ruined" / "log.jsonl").read_text().splitlines()]
    scores = {entry["step"]: entry["test/score"] for entry in scores if "test/score" in entry}
    best = BuiltinEnhancer.from_pretrained(tmp_path / "ruined" / "best").metadata
    assert best == {"step": max(scores, key=scores.__getitem__), "score": max(scores.values())}


@pytest.mark.parametrize(
    ("group", "changes", "message"),
    [
        ("augment", {"clean": 0.5}, "augment.clean was 0, is 0.5"),
        ("choice_loss", {"detail": 0.5}, "choice_loss.detail was 0.1, is 0.5"),
        ("data", {"height": 16}, "data.height was 32, is 16"),
        ("data", {"held_out": ("scene0",)}, "data.held_out was .*scene0|the pairs was"),
    ],
)
def test_a_continued_run_notices_other_settings(pairs, tmp_path, group, changes, message):
    config = config_of(pairs, tmp_path / "run", steps=1)
    train(config)
    other = replace(config, resume=True, **{group: replace(getattr(config, group), **changes)})
    with pytest.raises(InputError, match=f"another run: .*({message})"):
        train(other)


def test_stages_are_remembered(pairs, tmp_path):
    """A run may begin from what another one made, or from the shipped weights; what was calibrated is not kept."""
    first = config_of(pairs, tmp_path / "first", steps=2)
    train(first)
    second = config_of(pairs, tmp_path / "second", steps=3, model=str(first.output / "enhancer"))
    train(second)
    assert len(result(second).metadata["stages"]) == 2
    assert "in 2 stages" in (second.output / "enhancer" / "README.md").read_text()
    still = OptimizerConfig(learning_rate=0.0)
    shipped = config_of(pairs, tmp_path / "shipped", steps=1, model="builtin", optimizer=still)
    train(shipped)
    wanted = BuiltinEnhancer.from_pretrained(asset("builtin")).network.state_dict()
    assert_equal(wanted, result(shipped).network.state_dict())


def test_calibration_takes_what_good_pixels_can_bear(pairs, tmp_path):
    """Tolerating more never makes it more timid; what it chose is within the tolerance, and best to learn from."""
    config = config_of(pairs, tmp_path / "run", steps=40)
    train(config)
    enhancer, views = result(config), list(BuiltinData(config).held_out())
    chosen = []
    for tolerance in (0.0, 0.5, 100.0):
        found = calibrate(enhancer, views, tolerance)
        chosen.append((enhancer.network.bias_when_shown, enhancer.network.bias_when_learned))
        figures = means(validate(enhancer, views))["mean"]
        assert figures == found[chosen[-1][0]]
        assert figures["good_input"] - figures["good"] <= tolerance or chosen[-1][0] == BIASES[0]
    assert chosen == sorted(chosen)
    assert {learned for _, learned in chosen} == {min(BIASES, key=lambda bias: found[bias]["loss"])}


def test_the_score_weighs_gains_against_good_pixels():
    fair = {"psnr_input": 25, "psnr": 25.5, "good_input": 40, "good": 39.96}
    greedy = {"psnr_input": 25, "psnr": 25.52, "good_input": 40, "good": 39.5}
    assert score(fair) == pytest.approx(0.5)
    assert score(greedy) < score(fair)


def test_a_confidence_that_comes_true_has_no_error():
    right = torch.arange(1000).view(1, 1, 10, 100) % 10 < 7
    assert calibration_error(torch.full(right.shape, 0.7), right) == pytest.approx(0, abs=1e-6)
    assert calibration_error(torch.full(right.shape, 0.9), right) == pytest.approx(0.2, abs=1e-6)
