# SPDX-License-Identifier: Apache-2.0
import copy
import json
from pathlib import Path

import pytest
import torch
from difix_reference import Reference

from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.difix.enhancer import DifixEnhancer
from harmonizer_ns.enhancers.difix.network import DifixNetwork
from harmonizer_ns.enhancers.lora import VAE_ADAPTER, VAE_DECODER, add_adapters, matching_layers
from harmonizer_ns.errors import InputError

CONFIGS = Path(__file__).parent.parent.parent / "configs"


def config(name="difix-tiny", **changes):
    return {**json.loads((CONFIGS / f"{name}.json").read_text()), **changes}


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def reference(tiny_difix):
    return Reference(tiny_difix)


@pytest.fixture(scope="module")
def enhancer(tiny_difix):
    return DifixEnhancer.from_pretrained(tiny_difix, max_references=3)


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return DifixNetwork.from_config(config("difix"))


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("size", [(64, 64), (40, 56)])
def test_it_computes_the_formulas(enhancer, reference, count, size):
    batch, photos = images(3, 3, *size), images(3, count, 3, *size, seed=1)
    with torch.no_grad():
        output = enhancer.network(batch, photos if count else None)
    expected = torch.stack([reference(*pair) for pair in zip(batch, photos, strict=True)])
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)


def test_it_computes_the_formulas_at_other_noise_levels(enhancer, reference):
    other = copy.deepcopy(enhancer.network)
    other.timestep = 999
    batch = images(1, 3, 64, 64)
    with torch.no_grad():
        output = other(batch)
    expected = reference(batch[0], batch[:0], time=999)[None]
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_enhancer_computes_the_formulas_at_odd_sizes(enhancer, reference, plane_frames, count):
    frames = plane_frames(3, 37, 50)
    photos = [plane_frames(max(count, 1), 37, 50, seed=i + 1) for i in range(3)]
    repaired = enhancer.enhance(frames, Context(references=tuple(photos) if count else ()))

    def prepared(rgb):
        return torch.nn.functional.pad(rgb, (0, 6, 0, 3), mode="replicate") * 2 - 1

    for i in range(3):
        output = reference(prepared(frames[i].rgb)[0], prepared(photos[i].rgb)[:count])[:, :37, :50]
        torch.testing.assert_close(repaired.rgb[i], (output / 2 + 0.5).clamp(0, 1), atol=1e-4, rtol=0)


def test_references_matter_in_the_formulas(reference):
    """Or the tests above would prove nothing about them."""
    image = images(3, 64, 64)
    alone, helped = reference(image, image[None][:0]), reference(image, images(1, 3, 64, 64, seed=1))
    assert (alone - helped).abs().mean() > 0.01


def test_the_order_of_references_does_not_matter(enhancer):
    batch, photos = images(1, 3, 32, 32), images(1, 3, 3, 32, 32, seed=1)
    with torch.no_grad():
        first, turned = enhancer.network(batch, photos), enhancer.network(batch, photos.flip(1))
    torch.testing.assert_close(first, turned, atol=1e-4, rtol=1e-4)


def test_the_full_architecture_is_sd_turbo(full):
    skips = sum(parameter.numel() for name, parameter in full.vae.named_parameters() if "skip_conv" in name)
    assert sum(parameter.numel() for parameter in full.unet.parameters()) == 865_910_724
    assert sum(parameter.numel() for parameter in full.vae.parameters()) - skips == 83_653_863
    shapes = [tuple(getattr(full.vae.decoder, f"skip_conv_{i}").weight.shape) for i in (1, 2, 3, 4)]
    assert shapes == [(512, 512, 1, 1), (512, 256, 1, 1), (512, 128, 1, 1), (256, 128, 1, 1)]
    assert full.alpha == pytest.approx(0.75524, abs=1e-5)
    assert tuple(full.prompt_embedding.shape) == (1, 77, 1024)
    assert full.multiple == 8


def test_adapters_sit_on_the_decoder_alone(full):
    names = matching_layers(full.vae, VAE_DECODER, scope="decoder")
    assert len(names) == 43
    assert all(name.startswith("decoder.") for name in names)
    vae = copy.deepcopy(full.vae)
    add_adapters(vae, VAE_DECODER, 4, VAE_ADAPTER, scope="decoder")
    found = {name.partition(".lora_A.")[0] for name in vae.state_dict() if ".lora_A." in name}
    assert found == set(names)
    layer = vae.decoder.skip_conv_1
    assert layer.scaling == {"vae_skip": 2.0}
    assert layer.lora_A["vae_skip"].weight.shape[0] == 4


def test_every_part_of_the_repair_is_differentiable():
    torch.manual_seed(0)
    network = DifixNetwork.from_config(config("temporal-sd-turbo-tiny")).train()
    for name, parameter in network.named_parameters():
        if ".temporal.to_out" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    output = network(images(2, 3, 32, 32), images(2, 1, 3, 32, 32, seed=1), images(2, 2, 3, 32, 32, seed=2))
    output.square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_gradient_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    network = DifixNetwork.from_config(config()).train()
    thrifty = copy.deepcopy(network)
    thrifty.enable_gradient_checkpointing()
    for each in (network, thrifty):
        each(images(1, 3, 32, 32), images(1, 1, 3, 32, 32, seed=1)).square().mean().backward()
    for first, second in zip(network.parameters(), thrifty.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad)


def test_skip_connections_are_cut_in_training_only():
    torch.manual_seed(0)
    network = DifixNetwork.from_config(config()).train()
    for i in (1, 2, 3, 4):
        torch.nn.init.constant_(getattr(network.vae.decoder, f"skip_conv_{i}").weight, 0.5)
    without = copy.deepcopy(network)
    for i in (1, 2, 3, 4):
        torch.nn.init.zeros_(getattr(without.vae.decoder, f"skip_conv_{i}").weight)
    batch = images(1, 3, 32, 32)
    with torch.no_grad():
        whole = network(batch)
        network.skip_dropout = 1.0
        torch.testing.assert_close(network(batch), without(batch))
        torch.testing.assert_close(network.eval()(batch), whole)
        assert not torch.allclose(whole, without(batch), atol=1e-3)


def test_its_configuration_builds_it_again():
    network = DifixNetwork.from_config(config("temporal-sd-turbo-tiny", timestep=500, max_references=2))
    again = DifixNetwork.from_config(json.loads(json.dumps(network.config)))
    assert again.config == network.config
    assert again.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "cosmos"}, "'difix', the configuration is for 'cosmos'"),
        ({"timestep": 1000}, "from 0 to 999, it is 1000"),
        ({"scheduler": {"prediction_type": "v_prediction"}}, "'v_prediction'"),
        ({"max_references": -1}, "-1 references"),
        ({"nonsense": 1}, "nonsense"),
        ({"unet": {"block_out_channels": [7]}}, "no DifixNetwork can be built"),
    ],
)
def test_bad_configurations_are_refused(changes, message):
    with torch.device("meta"), pytest.raises(InputError, match=message):
        DifixNetwork.from_config(config(**changes))


def test_sizes_that_do_not_fit_are_refused(enhancer):
    with pytest.raises(ValueError, match="36x32 image are not multiples of 8"):
        enhancer.network(images(1, 3, 32, 36))
    with pytest.raises(ValueError, match="looks at 0 previous outputs, got 1"):
        enhancer.network(images(1, 3, 32, 32), context=images(1, 1, 3, 32, 32))
