# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch

from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.checkpoint import load_checkpoint
from harmonizer_ns.enhancers.difix.attention import Layout
from harmonizer_ns.enhancers.difix.enhancer import DifixEnhancer
from harmonizer_ns.enhancers.difix.formats import write_checkpoint
from harmonizer_ns.enhancers.difix.temporal import TemporalAttention
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.errors import InputError


@pytest.fixture(scope="module")
def single(tiny_difix):
    return DifixEnhancer.from_pretrained(tiny_difix, max_references=2).network


@pytest.fixture(scope="module")
def trained(single):
    """Temporal layers that matter."""
    torch.manual_seed(0)
    network = single.with_context(4)
    for name, parameter in network.named_parameters():
        if ".temporal." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


VIEW, PHOTOS, CONTEXT = images(2, 3, 32, 40), images(2, 2, 3, 32, 40, seed=1), images(2, 4, 3, 32, 40, seed=2)


@pytest.mark.parametrize("photos", [None, PHOTOS])
@torch.no_grad()
def test_it_begins_as_the_single_frame_network(single, photos):
    temporal = single.with_context(4).eval()
    assert temporal.max_context == 4
    torch.testing.assert_close(temporal(VIEW, photos, CONTEXT), single(VIEW, photos), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("photos", [None, PHOTOS])
@torch.no_grad()
def test_trained_layers_look_at_the_context(single, trained, photos):
    with_context = trained(VIEW, photos, CONTEXT)
    assert (with_context - single(VIEW, photos)).abs().mean() > 0.01
    assert (with_context - trained(VIEW, photos, CONTEXT.flip(1))).abs().mean() > 1e-4  # and tell old from new
    torch.testing.assert_close(trained(VIEW, photos), single(VIEW, photos), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_views_of_a_batch_stay_apart(trained):
    together = trained(VIEW, PHOTOS, CONTEXT)
    for i in range(2):
        part = slice(i, i + 1)
        torch.testing.assert_close(
            together[part], trained(VIEW[part], PHOTOS[part], CONTEXT[part]), atol=1e-4, rtol=1e-4
        )


def test_temporal_attention_is_attention_along_time_at_each_pixel():
    """Against a loop over pixels, with torch's own attention layer."""
    torch.manual_seed(0)
    layer = TemporalAttention(8, heads=2)
    torch.nn.init.normal_(layer.to_out.weight)
    own = torch.nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
    own.in_proj_weight.data, own.out_proj.weight.data = layer.to_qkv.weight.data, layer.to_out.weight.data
    features = torch.randn(2 * 4, 8, 3, 5)  # of each view: a reference, the view, two frames of context
    refined = layer(features, Layout(references=1, context=2))
    age = torch.zeros(3, 8)
    for frame in range(3):
        for channel in range(8):
            phase = torch.tensor(frame * torch.pi / 2 / 2 ** (channel // 2))
            age[frame, channel] = phase.cos() if channel % 2 else phase.sin()
    expected = features.clone().view(2, 4, 8, 3, 5)
    for view in range(2):
        for row in range(3):
            for column in range(5):
                pixel = expected[view, 1:, :, row, column].clone()
                tokens = (layer.norm(pixel) + age)[None]
                expected[view, 1:, :, row, column] = pixel + own(tokens, tokens, tokens)[0][0]
    torch.testing.assert_close(refined, expected.flatten(0, 1), atol=1e-5, rtol=1e-5)


def test_a_copy_has_layers_of_its_own(trained):
    twin = copy.deepcopy(trained)
    for name, parameter in twin.named_parameters():
        if ".temporal." in name:
            torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        assert (twin(VIEW, None, CONTEXT) - trained(VIEW, None, CONTEXT)).abs().mean() > 0.01
        torch.testing.assert_close(twin(VIEW, None, CONTEXT), twin(VIEW), atol=1e-4, rtol=1e-4)


def test_all_layers_learn_with_the_unet(trained):
    names = [name for name, _ in trained.unet.named_parameters() if ".temporal." in name]
    assert len(names) == 5 * 4  # layers of the small architecture, and what each has
    network = copy.deepcopy(trained).train()
    network(VIEW, None, CONTEXT).square().mean().backward()
    assert all(network.unet.get_parameter(name).grad.abs().max() > 0 for name in names)


def test_it_is_saved_and_loaded(trained, tmp_path, plane_frames):
    enhancer = DifixEnhancer(trained, {"note": "mine"})
    enhancer.save(tmp_path / "temporal")
    assert load_checkpoint(tmp_path / "temporal").kwargs["max_context"] == 4
    again = load_enhancer(tmp_path / "temporal")
    assert (again.max_context, again.metadata) == (4, {"note": "mine"})
    frames, history = plane_frames(1, 33, 30), tuple(plane_frames(1, 33, 30, seed=i) for i in range(1, 6))
    first = enhancer.enhance(frames, Context(history=history)).rgb
    torch.testing.assert_close(again.enhance(frames, Context(history=history)).rgb, first, atol=1e-5, rtol=0)
    assert not torch.allclose(first, enhancer.enhance(frames).rgb, atol=1e-3)
    assert torch.equal(first, enhancer.enhance(frames, Context(history=history[:4])).rgb)
    assert not torch.equal(first, enhancer.enhance(frames, Context(history=history[:2])).rgb)


def test_previous_outputs_of_another_size_are_made_to_fit(trained, plane_frames):
    enhancer, frames = DifixEnhancer(trained), plane_frames(1, 33, 30)
    repaired = enhancer.enhance(frames, Context(history=(plane_frames(1, 66, 60, seed=1),)))
    assert repaired.rgb.shape == frames.rgb.shape


def test_difix_files_have_no_place_for_it(trained, tmp_path):
    with pytest.raises(InputError, match="no place for temporal layers"):
        write_checkpoint(trained, tmp_path / "model.pkl")


def test_a_single_frame_network_has_no_place_for_temporal_layers(trained):
    with pytest.raises(ValueError, match="no place for"):
        trained.with_context(0)
