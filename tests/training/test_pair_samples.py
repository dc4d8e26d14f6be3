# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from pair_toys import truncate, write_pair
from safetensors.torch import load_file

from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.builtin.enhancer import gather_inputs
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import load_image, to_float
from harmonizer_ns.pairs import write_pairs
from harmonizer_ns.training.builtin.pair_samples import load_pair_samples
from harmonizer_ns.training.builtin.samples import whole
from harmonizer_ns.training.builtin.train import BuiltinTrainingConfig, train
from harmonizer_ns.types import Frames


def _pairs(folder: Path) -> Path:
    """A clip of two frames of one scene to train on, a single photo without geometry to test on."""
    source = {"scene": "data/room", "stream": "sparse"}
    clip = [write_pair(folder, f"f{i}", 2, geometry=True, clip="c", frame=i, source=source) for i in range(2)]
    write_pairs(folder / "pairs.json", clip, [write_pair(folder, "photo", source="made by hand")])
    return folder / "pairs.json"


def test_the_network_sees_what_the_enhancer_would_show_it(tmp_path):
    """Photos of a pair warped for training are those that the enhancer warps when it runs."""
    path = _pairs(tmp_path)
    pair = write_pair(tmp_path, "f1", 2, geometry=True)
    sample = load_pair_samples(path)[1]
    assert (sample.scene, sample.recipe, sample.split) == ("room", "sparse", "train")
    depths = load_file(pair.depth)
    photos, cameras = torch.stack([load_image(path) for path in pair.references]), pair.cameras[1:]
    seen = Frames(photos, torch.ones(2, 1, 32, 48), depths["reference_depths"][:, None], cameras)
    shown, camera = load_image(pair.image)[None], pair.cameras[0]
    view = Frames(shown, depths["alpha"][None, None], depths["depth"][None, None], camera)
    wanted = gather_inputs(view, Context((seen,)), 2)
    inputs = whole(sample, 16).inputs
    valid = wanted.valid[0].expand(-1, 3, -1, -1) > 0.01
    assert 0.2 < valid.float().mean() < 1
    torch.testing.assert_close(inputs.warps[0, :2][valid], wanted.warps[0][valid], atol=3e-3, rtol=0)
    torch.testing.assert_close(inputs.valid[:, :2], wanted.valid, atol=3e-3, rtol=0)
    torch.testing.assert_close(inputs.cues[:, :2], wanted.cues, atol=3e-3, rtol=0)


def test_the_neighbour_of_a_clip_is_shown_as_truth_and_as_render(tmp_path):
    """Both frames have one camera, so the neighbour arrives where it was: blue tells truth (0.8) and render (0.2)."""
    sample = load_pair_samples(_pairs(tmp_path))[0]
    seen = to_float(sample.previous_valid) > 0.9
    assert seen.all()
    torch.testing.assert_close(to_float(sample.previous)[0, 2], torch.full((32, 48), 0.8), atol=3e-3, rtol=0)
    torch.testing.assert_close(to_float(sample.previous)[1, 2], torch.full((32, 48), 0.2), atol=3e-3, rtol=0)


def test_a_pair_without_geometry_has_no_candidates(tmp_path):
    sample = load_pair_samples(_pairs(tmp_path))[2]
    assert (sample.scene, sample.split) == ("photo", "test")
    assert len(sample.warps) == 0
    assert not sample.previous_valid.any()
    assert not sample.inverse_depth.any()


def test_training_takes_pairs(tmp_path):
    from harmonizer_ns.training.builtin.augment import AugmentConfig

    config = BuiltinTrainingConfig(
        tmp_path / "out", pairs=(_pairs(tmp_path),), steps=2, batch=2, augment=AugmentConfig(crop=32)
    )
    assert set(train(config)["references"]) == {"photo", "mean"}


def test_bad_input_is_named(tmp_path):
    path = _pairs(tmp_path)
    truncate(tmp_path / "f0_target.png")
    with pytest.raises(InputError, match=r"f0_target\.png"):
        load_pair_samples(path)
    with pytest.raises(InputError, match="--samples DIR, --pairs FILE"):
        train(BuiltinTrainingConfig(tmp_path / "out"))


def test_checkpoints_are_compared_by_damage(tmp_path, write_samples):
    """A checkpoint that changes nothing gains nothing; its own samples count as sparse damage."""
    from harmonizer_ns.enhancers.builtin.enhancer import ARCHITECTURE
    from harmonizer_ns.enhancers.builtin.network import ChoiceNetwork
    from harmonizer_ns.enhancers.checkpoint import Checkpoint, save_checkpoint
    from harmonizer_ns.training.compare import CompareConfig, compare, table

    fresh = ChoiceNetwork()
    save_checkpoint(tmp_path / "fresh", Checkpoint(ARCHITECTURE, fresh.config, fresh.state_dict(), {}))
    path = _pairs(tmp_path)
    config = CompareConfig((tmp_path / "fresh",), ("room",), pairs=(path,))
    figures = compare(config)
    assert set(figures) == {"sparse", "all"}
    assert figures["all"][0]["render"] == pytest.approx(-20 * torch.log10(torch.tensor(0.6 / 3**0.5)).item(), abs=0.05)
    assert figures["all"][0]["output"] == pytest.approx(figures["all"][0]["render"], abs=0.2)
    assert table(["fresh"], figures).splitlines()[-1].startswith("| all | 9.2")
    with pytest.raises(InputError, match="no samples of elsewhere"):
        compare(CompareConfig((tmp_path / "fresh",), ("elsewhere",), pairs=(path,)))
