# SPDX-License-Identifier: Apache-2.0
import hashlib
import json
import math

import pytest
import torch
from torch.nn import functional as F

from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.builtin.enhancer import BuiltinEnhancer, gather_inputs
from harmonizer_ns.enhancers.builtin.inputs import BuiltinInputs, ray_cues, relative_inverse_depth
from harmonizer_ns.enhancers.builtin.network import SCALES, BuiltinNetwork, Choice
from harmonizer_ns.enhancers.checkpoint import Checkpoint, save_checkpoint
from harmonizer_ns.files import asset
from harmonizer_ns.types import Cameras, Frames


def _stirred(seed: int = 0) -> BuiltinNetwork:
    """A network whose heads are not at their start, so that everything shows in the output."""
    torch.manual_seed(seed)
    network = BuiltinNetwork().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "head" in name and name.endswith("weight"):
                parameter.normal_(0, 0.2)
        network.candidate_head.bias.zero_()
    return network


def _inputs(n: int = 2, k: int = 3, height: int = 32, width: int = 48, seed: int = 0) -> BuiltinInputs:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    valid = noise(n, k, 1, height, width) * (noise(n, k, 1, height, width) > 0.3)
    return BuiltinInputs(
        render=noise(n, 3, height, width),
        alpha=noise(n, 1, height, width),
        inverse_depth=noise(n, 1, height, width),
        warps=noise(n, k, 3, height, width),
        valid=valid,
        cues=noise(n, k, 2, height // 4, width // 4),
        is_previous=torch.zeros(n, k),
    )


def _permuted(inputs: BuiltinInputs, order: list[int]) -> BuiltinInputs:
    names = ("warps", "valid", "cues", "is_previous")
    return BuiltinInputs(
        inputs.render, inputs.alpha, inputs.inverse_depth, *(getattr(inputs, n)[:, order] for n in names)
    )


def _assert_same(a: Choice, b: Choice) -> None:
    assert torch.allclose(a.rgb, b.rgb, atol=1e-5)
    assert torch.allclose(a.confidence, b.confidence, atol=1e-4)


def test_it_starts_almost_as_the_identity(plane_frames):
    frames = plane_frames(1, 48, 64)
    context = Context((plane_frames(3, 48, 64, shift=0.1, seed=1),), (plane_frames(1, 48, 64, seed=2),))
    repaired = BuiltinEnhancer(BuiltinNetwork()).enhance(frames, context)
    assert (repaired.rgb - frames.rgb).square().mean().sqrt() < 0.01
    without = BuiltinEnhancer(BuiltinNetwork()).enhance(frames)
    assert (without.rgb - frames.rgb).square().mean().sqrt() < 0.01


def test_the_second_bias_counts_only_where_one_learns_from_the_repair(plane_frames):
    network = _stirred()
    network.bias_when_learned = 4.0
    enhancer, frames = BuiltinEnhancer(network), plane_frames(1, 48, 64)
    photos = (plane_frames(3, 48, 64, shift=0.1, seed=1),)
    looked_at = enhancer.enhance(frames, Context(photos)).rgb
    learned_from = enhancer.enhance(frames, Context(photos, learning=True)).rgb
    assert (learned_from - frames.rgb).abs().mean() > 1.2 * (looked_at - frames.rgb).abs().mean()
    network.bias_when_learned = network.bias_when_shown
    assert torch.equal(enhancer.enhance(frames, Context(photos, learning=True)).rgb, looked_at)


@torch.no_grad()
def test_a_smoother_version_is_the_mean_of_cells():
    """With all weight on cells of 4 pixels the output has their means, and the same brightness as the render."""
    network, inputs = BuiltinNetwork().eval(), _inputs(n=1, k=1)
    network.base_head.bias[4 * SCALES.index(4) :][:4] = 100.0  # a block of four: the pixel shuffle's order
    out = network(inputs).rgb
    expected = F.interpolate(F.avg_pool2d(inputs.render, 4), scale_factor=4, mode="bilinear")
    assert torch.allclose(out, expected, atol=1e-4)


def test_it_is_small():
    assert sum(p.numel() for p in BuiltinNetwork().parameters()) <= 4_000_000


@torch.no_grad()
def test_the_order_of_candidates_does_not_matter():
    network, inputs = _stirred(), _inputs()
    choice, permuted = network(inputs), network(_permuted(inputs, [2, 0, 1]))
    assert (choice.rgb - inputs.render).abs().mean() > 0.01  # the heads are awake, so the comparison means something
    _assert_same(choice, permuted)
    assert torch.allclose(choice.scores[:, [2, 0, 1]], permuted.scores, atol=1e-4)


@torch.no_grad()
def test_colours_of_invalid_pixels_never_matter():
    network, inputs = _stirred(), _inputs()
    other = torch.where(inputs.valid > 0, inputs.warps, torch.rand_like(inputs.warps) * 100 - 50)
    changed = BuiltinInputs(**{**vars(inputs), "warps": other})
    before, after = network(inputs), network(changed)
    assert torch.equal(before.rgb, after.rgb)
    assert torch.equal(before.confidence, after.confidence)


@torch.no_grad()
def test_an_invalid_candidate_changes_nothing():
    network, inputs = _stirred(), _inputs()
    emptied = BuiltinInputs(**{**vars(inputs), "valid": inputs.valid * torch.tensor([1.0, 0, 1]).view(1, 3, 1, 1, 1)})
    _assert_same(network(emptied), network(_permuted(emptied, [0, 2])))


@torch.no_grad()
def test_valid_candidates_are_used():
    network, inputs = _stirred(), _inputs()
    other = BuiltinInputs(**{**vars(inputs), "warps": 1 - inputs.warps})
    assert (network(inputs).rgb - network(other).rgb).abs().mean() > 0.01


def test_wrong_counts_are_refused(plane_frames):
    enhancer = BuiltinEnhancer(BuiltinNetwork())
    with pytest.raises(ValueError, match="3 entries for 2 frames"):
        enhancer.enhance(plane_frames(2), Context(references=(None, None, None)))
    with pytest.raises(ValueError, match="1 frames for 2 frames"):
        enhancer.enhance(plane_frames(2), Context(history=(plane_frames(1),)))


def test_wrong_shapes_are_refused_by_name():
    inputs = _inputs()
    with pytest.raises(ValueError, match="valid"):
        BuiltinInputs(**{**vars(inputs), "valid": inputs.valid[:, :1]})


def test_a_reference_from_the_same_camera_arrives_unchanged(plane_frames):
    frames, photo = plane_frames(1), plane_frames(1, seed=3)
    inputs = gather_inputs(frames, Context(references=(photo,)), 3)
    assert torch.allclose(inputs.warps[0, 0], photo.rgb[0], atol=1e-4)
    assert (inputs.valid > 0.99).all()
    assert inputs.cues.abs().max() < 1e-3
    assert inputs.is_previous.tolist() == [[0.0]]


def test_the_previous_output_comes_last_and_is_marked(plane_frames):
    frames = plane_frames(2)
    context = Context(references=(plane_frames(2, shift=0.1), None), history=(plane_frames(2, seed=5),))
    inputs = gather_inputs(frames, context, 3)
    assert inputs.is_previous.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert inputs.valid[1, :2].max() == 0
    assert torch.allclose(inputs.warps[:, 2], plane_frames(2, seed=5).rgb, atol=1e-4)


def test_more_references_than_it_can_use_are_cut(plane_frames):
    frames, photos = plane_frames(1), plane_frames(5, shift=0.1)
    enhancer = BuiltinEnhancer(_stirred())
    few = enhancer.enhance(frames, Context((photos[[0, 1, 2]],)))
    assert torch.equal(few.rgb, enhancer.enhance(frames, Context((photos,))).rgb)


def test_ray_cues_against_the_definition():
    """One pixel at the optical axis, reference moved sideways and forward, with twice the focal length."""
    pose = torch.eye(4)[None]
    moved = pose.clone()
    moved[0, :3, 3] = torch.tensor([1.5, 0.0, 2.0])
    intrinsics = torch.tensor([[[10.0, 0, 0.5], [0, 10.0, 0.5], [0, 0, 1]]])
    sharper = torch.tensor([[[20.0, 0, 0.5], [0, 20.0, 0.5], [0, 0, 1]]])
    cues = ray_cues(torch.full((1, 1, 1, 1), 4.0), Cameras(pose, intrinsics, 1, 1), Cameras(moved, sharper, 1, 1))
    # The point is (0, 0, 4): 4 away from the view; (-1.5, 0, 2) and 2.5 away from the reference.
    angle = math.acos(2.0 / 2.5)
    assert cues[0, 0].item() == pytest.approx(2 * math.sin(angle / 2), abs=1e-5)
    assert cues[0, 1].item() == pytest.approx(math.log2((20 / 2.5) / (10 / 4)), abs=1e-5)


def test_ray_cues_do_not_depend_on_the_scale_of_the_scene(plane_frames):
    frames, photo = plane_frames(1), plane_frames(1, shift=0.3)
    scaled = [
        Cameras(c.camera_to_world.clone(), c.intrinsics, c.width, c.height) for c in (frames.cameras, photo.cameras)
    ]
    for cameras in scaled:
        cameras.camera_to_world[:, :3, 3] *= 100
    once = ray_cues(frames.depth, frames.cameras, photo.cameras)
    assert torch.allclose(once, ray_cues(frames.depth * 100, *scaled), atol=1e-4)
    assert once[:, 0].min() > 0.05


def test_relative_inverse_depth():
    depth = torch.tensor([[0.0, 1.0, 2.0, 4.0, 0.1]])[None, None]
    assert torch.allclose(relative_inverse_depth(depth), torch.tensor([[0.0, 1.0, 0.5, 0.25, 4.0]])[None, None])
    assert relative_inverse_depth(torch.zeros(1, 1, 2, 2)).abs().max() == 0
    assert torch.allclose(relative_inverse_depth(depth * 1000), relative_inverse_depth(depth))


def test_save_and_load_give_the_same_enhancer(tmp_path, plane_frames):
    network = BuiltinNetwork(shared=16, candidate=8, trunk=(16, 24, 32), blocks=(1, 1, 1))
    network.bias_when_learned = 0.5
    saved = BuiltinEnhancer(network, {"steps": 3})
    saved.save(tmp_path)
    loaded = BuiltinEnhancer.from_pretrained(tmp_path)
    frames, context = plane_frames(1), Context((plane_frames(2, shift=0.1),))
    assert loaded.metadata == {"steps": 3}
    assert loaded.network.config == network.config
    assert torch.equal(saved.enhance(frames, context).rgb, loaded.enhance(frames, context).rgb)


def test_a_folder_with_the_older_names_of_the_biases_still_loads(tmp_path):
    weights = BuiltinNetwork().state_dict()
    save_checkpoint(tmp_path, Checkpoint("choice-smooth", {"eagerness": -0.5, "boldness": 0.25}, weights))
    network = BuiltinEnhancer.from_pretrained(tmp_path).network
    assert (network.bias_when_shown, network.bias_when_learned) == (-0.5, 0.25)


def test_the_shipped_weights_are_whole():
    folder = asset("builtin")
    config = json.loads((folder / "config.json").read_text())
    assert hashlib.sha256((folder / config["weights"]).read_bytes()).hexdigest() == config["sha256"]
    assert BuiltinEnhancer.from_pretrained().metadata["licence"] == "Apache-2.0"
    assert (folder / "README.md").is_file()


def test_the_shipped_weights_prefer_a_true_photo_and_leave_a_true_render_alone():
    """A smooth picture damaged in one half, seen exactly by two photos: the damage shrinks, the rest stays."""
    truth, damaged = _picture(), _picture()
    damaged.rgb[..., 48:] += 0.15 * torch.sin(torch.arange(48.0) / 2)
    repaired = BuiltinEnhancer.from_pretrained().enhance(damaged, Context((truth[[0, 0]],)))
    error_before = (damaged.rgb - truth.rgb).square()[..., 48:].mean()
    error_after = (repaired.rgb - truth.rgb).square()[..., 48:].mean()
    assert error_after < 0.8 * error_before
    assert (repaired.rgb - truth.rgb).square()[..., :32].mean().sqrt() < 0.01


def _picture(height: int = 64, width: int = 96) -> Frames:
    y, x = torch.meshgrid(torch.linspace(0, 6, height), torch.linspace(0, 9, width), indexing="ij")
    rgb = torch.stack([(x * 2).sin(), (y * 3).cos(), (x + y).sin()])[None] * 0.25 + 0.5
    intrinsics = torch.tensor([[[90.0, 0, width / 2], [0, 90.0, height / 2], [0, 0, 1]]])
    flat = torch.ones(1, 1, height, width)
    return Frames(rgb, flat, flat * 3, Cameras(torch.eye(4)[None], intrinsics, width, height))


def test_a_missing_asset_names_where_it_was_looked_for():
    with pytest.raises(FileNotFoundError, match=r"no-such-asset.*_assets"):
        asset("no-such-asset")
