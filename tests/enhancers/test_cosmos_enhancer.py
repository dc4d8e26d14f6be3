# SPDX-License-Identifier: Apache-2.0
import copy
import logging
from types import SimpleNamespace

import pytest
import tiny_cosmos
import torch

from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.checkpoint import load_checkpoint, save_checkpoint
from harmonizer_ns.enhancers.cosmos import CosmosEnhancer
from harmonizer_ns.enhancers.cosmos.enhancer import tile_autoencoder
from harmonizer_ns.errors import InputError


@pytest.fixture(scope="module", params=["joint", "cached"])
def network(request):
    return tiny_cosmos.network(cached_context=request.param == "cached")


def history(plane_frames, height=37, width=50, count=2):
    return tuple(plane_frames(count, height, width, seed=i + 1) for i in range(5))


def test_it_pads_and_gives_back_the_frames_size(network, plane_frames):
    frames, context = plane_frames(2, 37, 50), Context(history=history(plane_frames))
    repaired = CosmosEnhancer(network).enhance(frames, context)
    edges = ((0, 14), (0, 11))

    def prepared(rgb):
        padded = torch.nn.functional.pad(rgb, (*edges[0], *edges[1]), mode="replicate")
        return padded * 2 - 1

    clip = torch.stack([prepared(output.rgb) for output in context.history[:4]], dim=1)
    with torch.no_grad():
        expected = network(prepared(frames.rgb), context=clip)[..., :37, :50] / 2 + 0.5
    torch.testing.assert_close(repaired.rgb, expected.clamp(0, 1), atol=1e-5, rtol=0)
    assert torch.equal(repaired.confidence, torch.ones(2, 1, 37, 50))


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (33, 47)])
def test_any_size(network, plane_frames, size):
    frames = plane_frames(1, *size)
    for context in (Context(), Context(history=history(plane_frames, 24, 40, count=1))):
        repaired = CosmosEnhancer(network).enhance(frames, context)
        assert repaired.rgb.shape == frames.rgb.shape
        assert repaired.rgb.isfinite().all()


def test_cut_and_uncut_agree(network, plane_frames):
    frames, context = plane_frames(2, 37, 50), Context(history=history(plane_frames))
    plain, cut = (CosmosEnhancer(network, cut=cut).enhance(frames, context).rgb for cut in (False, True))
    torch.testing.assert_close(cut, plain, atol=1e-5, rtol=0)


def test_kept_latents_change_nothing_and_save_encoding(plane_frames, monkeypatch):
    network = tiny_cosmos.network(cached_context=True)
    enhancer, encoded = CosmosEnhancer(network), []
    encode = network.encode
    monkeypatch.setattr(network, "encode", lambda image: encoded.append(len(image)) or encode(image))
    outputs = list(history(plane_frames, count=1))
    for step in range(3):
        frames = plane_frames(1, 37, 50, seed=20 + step)
        encoded.clear()
        rgb = enhancer.enhance(frames, Context(history=tuple(outputs))).rgb
        assert len(encoded) == (5 if step == 0 else 2)
        fresh = CosmosEnhancer(network).enhance(frames, Context(history=tuple(outputs))).rgb
        assert torch.equal(rgb, fresh)
        outputs.insert(0, plane_frames(1, 37, 50, seed=40 + step))


def test_half_precision_stays_close(network, plane_frames):
    frames, context = plane_frames(1, 32, 32), Context(history=history(plane_frames, 32, 32, count=1))
    exact = CosmosEnhancer(network).enhance(frames, context).rgb
    half = CosmosEnhancer(network, cut=True).to("cpu", torch.bfloat16).enhance(frames, context).rgb
    assert half.dtype == torch.float32
    assert (half - exact).abs().mean() < 0.02


def test_a_tile_as_large_as_the_frame_changes_nothing(network, plane_frames):
    frames, context = plane_frames(1, 60, 64), Context(history=history(plane_frames, 60, 64, count=1))
    for cut in (False, True):
        plain, tiled = (CosmosEnhancer(copy.deepcopy(network), cut=cut, tile=tile) for tile in (0, 64))
        torch.testing.assert_close(tiled.enhance(frames, context).rgb, plain.enhance(frames, context).rgb)


def test_large_frames_are_decoded_in_tiles(network, plane_frames, monkeypatch):
    network, sizes = copy.deepcopy(network), []
    decode = network.decode
    monkeypatch.setattr(network, "decode", lambda latent: sizes.append(latent.shape[-2:]) or decode(latent))
    frames, context = plane_frames(1, 96, 150), Context(history=history(plane_frames, 96, 150, count=1))
    repaired = CosmosEnhancer(network, tile=64).enhance(frames, context).rgb
    assert sizes == [(8, 8)] * 6
    assert repaired.shape == frames.rgb.shape
    assert repaired.isfinite().all()
    with pytest.raises(InputError, match="at least 64 pixels"):
        CosmosEnhancer(network, tile=32)


def test_tiles_put_together_are_the_whole():
    """Exactly so for an autoencoder that looks at nothing beyond a latent's pixel."""

    def encode_jointly(image, context):
        clip = torch.cat([image[:, None], context], dim=1).transpose(1, 2)
        return torch.nn.functional.avg_pool3d(clip, (5, 8, 8))

    functions = {
        "encode": lambda image: torch.nn.functional.avg_pool2d(image, 8),
        "encode_jointly": encode_jointly,
        "decode": lambda latent: torch.nn.functional.interpolate(latent, scale_factor=8),
    }
    transformer = SimpleNamespace(config={"patch_size": (1, 2, 2)})
    network = SimpleNamespace(multiple=16, transformer=transformer, **functions)
    tile_autoencoder(network, 64)
    image, context = tiny_cosmos.images(2, 3, 96, 144), tiny_cosmos.images(2, 4, 3, 96, 144, seed=1)
    for name, inputs in (("encode", (image,)), ("encode_jointly", (image, context)), ("decode", (image,))):
        assert getattr(network, name) is not functions[name]
        torch.testing.assert_close(getattr(network, name)(*inputs), functions[name](*inputs))


@pytest.mark.parametrize("cut", [False, True])
def test_what_is_too_large_for_float16_goes_on_in_float32(plane_frames, caplog, cut):
    large = tiny_cosmos.network()
    with torch.no_grad():
        large.vae.encoder.conv_in.weight.mul_(1.2e5)  # still float16, its sums are not; normalisations take it back
    expected = CosmosEnhancer(large, cut=cut).enhance(plane_frames(1)).rgb
    enhancer = CosmosEnhancer(copy.deepcopy(large), cut=cut).to("cpu", torch.float16)
    with caplog.at_level(logging.WARNING):
        outputs = [enhancer.enhance(plane_frames(1)).rgb for _ in range(2)]
    assert caplog.text.count("too large for float16") == 1
    for output in outputs:
        assert (output - expected).abs().mean() < 0.01


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu(network, plane_frames, compiled):
    enhancer = CosmosEnhancer(network, cut=True, compiled=compiled).to("cuda", torch.bfloat16)
    outputs = list(history(plane_frames, 128, 192, count=1))
    for step in range(4):
        frames = plane_frames(1, 128, 192, seed=20 + step)
        expected = CosmosEnhancer(network).enhance(frames, Context(history=tuple(outputs))).rgb
        rgb = enhancer.enhance(frames, Context(history=tuple(outputs))).rgb
        assert (rgb - expected).abs().mean() < 0.02
        outputs.insert(0, plane_frames(1, 128, 192, seed=40 + step))


def test_save_and_load(network, plane_frames, tmp_path, caplog):
    enhancer = CosmosEnhancer(network, {"licence": "of somebody"})
    enhancer.save(tmp_path)
    with caplog.at_level(logging.WARNING):
        again = CosmosEnhancer.from_pretrained(tmp_path, cut=False)
    assert "of somebody" in caplog.text
    frames, context = plane_frames(1), Context(history=history(plane_frames, 24, 40, count=1))
    assert torch.equal(again.enhance(frames, context).rgb, enhancer.enhance(frames, context).rgb)
    assert again.metadata == enhancer.metadata


def test_what_cannot_be_loaded(tmp_path, network):
    with pytest.raises(InputError, match=r"config\.json"):
        CosmosEnhancer.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="'Painter' is neither a folder nor a repository"):
        CosmosEnhancer.from_pretrained("Painter")
    CosmosEnhancer(network).save(tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    del checkpoint.weights["vae.decoder.conv_in.weight"]
    save_checkpoint(tmp_path, checkpoint)
    with pytest.raises(InputError, match=r"missing: vae\.decoder\.conv_in\.weight"):
        CosmosEnhancer.from_pretrained(tmp_path)


def test_the_hub_out_of_reach(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"nvidia/Harmonizer.*cannot be fetched"):
        CosmosEnhancer.from_pretrained("nvidia/Harmonizer")


def test_frames_that_are_too_large_or_do_not_match(network, plane_frames):
    enhancer = CosmosEnhancer(network)
    with pytest.raises(InputError, match=r"4000x8.*2048"):
        enhancer.enhance(plane_frames(1, 8, 4000))
    with pytest.raises(ValueError, match="2 frames for 1"):
        enhancer.enhance(plane_frames(1, 37, 50), Context(history=history(plane_frames)))
