# SPDX-License-Identifier: Apache-2.0
"""Every cut leaves the outputs as they were, below 1e-5 relative in float32."""

import pytest
import tiny_cosmos
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm, WanUpsample

from harmonizer_ns.enhancers.cosmos.cuts import ChannelNorm, FrameConvolution, cut_network
from harmonizer_ns.enhancers.cosmos.formats import PlainCosmosNetwork
from harmonizer_ns.enhancers.cosmos.network import CosmosNetwork


def assert_agree(cut, uncut):
    assert (cut - uncut).norm() < 1e-5 * uncut.norm()


def velocity(transformer, latents, time=0.2, tokens=512):
    return transformer(
        latents,
        timestep=torch.full((len(latents),), time),
        encoder_hidden_states=torch.zeros(len(latents), tokens, 16),
        padding_mask=torch.zeros(1, 1, *latents.shape[-2:]),
        return_dict=False,
    )[0]


@pytest.fixture(scope="module")
def transformer():
    return tiny_cosmos.network().transformer


@torch.no_grad()
def test_zero_text_adds_exactly_nothing(transformer):
    block = transformer.transformer_blocks[0]
    tokens = torch.randn(2, 6, 24)
    assert torch.equal(block.attn2(tokens, encoder_hidden_states=torch.zeros(2, 512, 16)), torch.zeros(2, 6, 24))


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_transformer_with_the_time_built_in(transformer, frames):
    latents = torch.randn(2, 4, frames, 6, 10)
    fixed = cut_network(tiny_cosmos.network()).transformer  # t = 0.2 at sigma = 0.25
    assert_agree(velocity(fixed, latents), velocity(transformer, latents))
    at_another_time = velocity(transformer, latents, time=0.9)
    assert (at_another_time - velocity(transformer, latents)).norm() > 1e-2 * at_another_time.norm()


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (1, 0)])
def test_a_single_frame_needs_only_the_last_temporal_tap(kernel, padding):
    convolution = WanCausalConv3d(4, 6, kernel, padding=padding)
    frame = torch.randn(2, 4, 1, 5, 7)
    assert_agree(FrameConvolution(convolution, keep_video=False)(frame), convolution(frame))


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (1, 0)])
def test_several_frames_and_a_past_are_convolved_as_before(kernel, padding):
    convolution = WanCausalConv3d(4, 6, kernel, padding=padding)
    cut = FrameConvolution(convolution, keep_video=True)
    clip = torch.randn(2, 4, 6, 5, 7)
    assert_agree(cut(clip), convolution(clip))
    for past, present in ((clip[:, :, :1], clip[:, :, 1:]), (clip[:, :, :2], clip[:, :, 2:3])):
        assert_agree(cut(present, past), convolution(present, past))
    first, second, third = (
        cut(clip[:, :, :1]),
        cut(clip[:, :, 1:5], clip[:, :, :1]),
        cut(clip[:, :, 5:], clip[:, :, 3:5]),
    )
    assert_agree(torch.cat([first, second, third], dim=2), convolution(clip))


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3), (torch.float16, 1e-3)])
@pytest.mark.parametrize("images", [True, False])
def test_normalisation_is_the_plain_formula_and_leaves_channels_last(dtype, most, images):
    norm = WanRMS_norm(12, images=images)
    torch.nn.init.uniform_(norm.gamma, 0.5, 2)
    x = torch.randn(2, 5, 7, 12) * torch.logspace(-4, 4, 7)[:, None]  # its squares are too large for float16
    x[0, 0, 0] = 0
    x = x.movedim(-1, 1)
    x = (x if images else x.unflatten(0, (1, 2)).transpose(1, 2)).to(dtype)
    found = ChannelNorm(norm).to(dtype)(x)
    exact = x.double() / x.double().square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-30)
    exact = exact * norm.gamma.double()
    assert found.dtype == dtype
    assert found.movedim(1, -1).is_contiguous()
    assert (found - exact).abs().max() <= most * exact.abs().max()
    assert (found - exact).norm() <= (norm.to(dtype)(x) - exact).norm() * 1.01 + 1e-7 * exact.norm()


def test_a_network_cut_for_single_frames_refuses_more():
    convolution = WanCausalConv3d(4, 6, 3, padding=1)
    with pytest.raises(ValueError, match="3 frames"):
        FrameConvolution(convolution, keep_video=False)(torch.randn(2, 4, 3, 5, 7))


def test_upsampling_copies_values():
    network = tiny_cosmos.network()
    image, replaced = torch.randn(1, 3, 5, 7, dtype=torch.bfloat16), dict(cut_network(network).vae.named_modules())
    upsamplings = {name: layer for name, layer in network.vae.named_modules() if isinstance(layer, WanUpsample)}
    assert upsamplings
    for name, upsampling in upsamplings.items():
        assert type(replaced[name]) is torch.nn.Upsample
        assert torch.equal(replaced[name](image), upsampling(image))


@torch.no_grad()
def test_the_first_frame_does_not_depend_on_later_latents():
    network = tiny_cosmos.network()
    latents = torch.randn(2, 4, 3, 4, 6)
    everything = network.vae.decode(latents).sample
    assert everything.shape[2] == 9
    assert_agree(network.decode(latents[:, :, 0]).clamp(-1, 1), everything[:, :, 0])


@torch.no_grad()
@pytest.mark.parametrize(
    "changes", [{"max_context": 0}, {"max_context": 4}, {"max_context": 4, "cached_context": True}]
)
def test_the_whole_network(changes):
    network = tiny_cosmos.network(**changes)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    cut = cut_network(network)
    image, context = tiny_cosmos.images(2, 3, 32, 48), tiny_cosmos.images(2, 4, 3, 32, 48, seed=1)
    assert_agree(cut(image), network(image))
    if network.max_context:
        assert_agree(cut(image, context=context), network(image, context=context))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in cut.parameters())


@torch.no_grad()
def test_the_graph_of_the_release_gives_the_same():
    network = tiny_cosmos.network()
    plain = PlainCosmosNetwork.of(network)
    image, context = tiny_cosmos.images(1, 3, 32, 48), tiny_cosmos.images(1, 4, 3, 32, 48, seed=1)
    assert_agree(cut_network(network)(image, context=context).clamp(-1, 1), plain(image, context=context))


def test_what_is_left_of_the_released_network():
    with torch.device("meta"):
        network = CosmosNetwork.from_config(tiny_cosmos.config("fixer"))
        cut = cut_network(network)
    crossing = sum(p.numel() for block in network.transformer.transformer_blocks for p in block.attn2.parameters())
    transformer = sum(p.numel() for p in network.transformer.parameters())
    assert crossing == pytest.approx(118e6, rel=0.01)
    assert sum(p.numel() for p in cut.transformer.parameters()) < transformer - crossing
    assert sum(p.numel() for p in cut.vae.parameters()) < 0.36 * sum(p.numel() for p in network.vae.parameters())


def test_a_cut_network_has_one_precision():
    cut = cut_network(tiny_cosmos.network().to(torch.bfloat16))
    assert {parameter.dtype for parameter in cut.parameters()} == {torch.bfloat16}


def test_transformers_of_another_kind_are_refused():
    config = {**tiny_cosmos.config()["transformer"], "extra_pos_embed_type": "learnable"}
    with pytest.raises(ValueError, match="text-to-image kind"):
        cut_network(tiny_cosmos.network(transformer=config))
