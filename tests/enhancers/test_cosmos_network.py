# SPDX-License-Identifier: Apache-2.0
"""The Cosmos network against the formulas, computed with diffusers' public functions alone."""

import pytest
import tiny_cosmos
import torch

from harmonizer_ns.enhancers.cosmos.network import CosmosNetwork
from harmonizer_ns.errors import InputError


def reference(network, image, context=None):
    """x0 = (1 - t) z - t net((1 - t) z, t), t = sigma / (1 + sigma); every latent is decoded, 512 tokens of text."""
    vae, transformer = network.vae, network.transformer
    mean, std = (torch.tensor(vae.config[name])[:, None, None, None] for name in ("latents_mean", "latents_std"))
    clip = image[:, :, None]
    if context is not None:
        clip = torch.cat([clip, context.transpose(1, 2)], dim=2)
    z = (vae.encode(clip).latent_dist.mode() - mean) / std
    t = 0.25 / 1.25
    velocity = transformer(
        (1 - t) * z,
        timestep=torch.full((len(image),), t),
        encoder_hidden_states=torch.zeros(len(image), 512, transformer.config["text_embed_dim"]),
        padding_mask=torch.zeros(1, 1, *image.shape[-2:]),
    ).sample
    x0 = (1 - t) * z - t * velocity
    return vae.decode(x0 * std + mean).sample[:, :, 0]


@pytest.fixture(scope="module")
def joint():
    changes = {"latents_mean": [0.5, -0.2, 0.1, 0.0], "latents_std": [2.0, 0.5, 1.0, 3.0]}
    return tiny_cosmos.network(vae={**tiny_cosmos.config()["vae"], **changes})


@pytest.fixture(scope="module")
def cached():
    return tiny_cosmos.network(cached_context=True)


@torch.no_grad()
@pytest.mark.parametrize("with_context", [False, True])
def test_it_is_the_formula(joint, with_context):
    image, context = tiny_cosmos.images(2, 3, 32, 48), tiny_cosmos.images(2, 4, 3, 32, 48, seed=1)
    context = context if with_context else None
    output = joint(image, context=context)
    torch.testing.assert_close(output.clamp(-1, 1), reference(joint, image, context), atol=1e-5, rtol=0)


@torch.no_grad()
def test_context_and_transformer_matter(joint, cached):
    image = tiny_cosmos.images(1, 3, 32, 32)
    first, second = (tiny_cosmos.images(1, 4, 3, 32, 32, seed=seed) for seed in (1, 2))
    for network in (joint, cached):
        assert (network(image, context=first) - network(image, context=second)).abs().max() > 1e-3
        assert (network(image, context=first) - network(image, context=first.flip(1))).abs().max() > 1e-4
        assert (network(image) - network.decode(0.8 * network.encode(image))).abs().max() > 1e-2


@torch.no_grad()
def test_cached_context_encodes_every_image_by_itself(cached):
    image, context = tiny_cosmos.images(2, 3, 32, 48), tiny_cosmos.images(2, 4, 3, 32, 48, seed=1)
    latents = torch.stack([cached.encode(image), *(cached.encode(context[:, i]) for i in range(4))], dim=2)
    torch.testing.assert_close(cached(image, context=context), cached.repair(latents))


@torch.no_grad()
def test_a_short_history_is_not_looked_at(joint, cached):
    image, context = tiny_cosmos.images(1, 3, 32, 32), tiny_cosmos.images(1, 3, 3, 32, 32, seed=1)
    for network in (joint, cached):
        assert torch.equal(network(image, context=context), network(image))
        assert torch.equal(network(image, context=context[:, :0]), network(image))


@torch.no_grad()
def test_images_of_a_batch_do_not_influence_each_other(joint):
    image, context = tiny_cosmos.images(3, 3, 32, 48), tiny_cosmos.images(3, 4, 3, 32, 48, seed=1)
    together = joint(image, context=context)
    alone = torch.cat([joint(image[i : i + 1], context=context[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_gradients_flow_and_checkpointing_does_not_change_them():
    image, context = tiny_cosmos.images(1, 3, 32, 32), tiny_cosmos.images(1, 4, 3, 32, 32, seed=1)
    gradients = []
    for checkpointing in (False, True):
        network = tiny_cosmos.network().train()
        if checkpointing:
            network.enable_gradient_checkpointing()
        network(image, context=context).square().mean().backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 100
    assert all(g.abs().sum() > 0 for g in gradients[0][:3])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("name", ["fixer", "harmonizer"])
def test_the_released_size(name):
    with torch.device("meta"):
        network = CosmosNetwork.from_config(tiny_cosmos.config(name))
    counts = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (network.transformer, network.vae)]
    assert counts == pytest.approx([597.5, 126.9], abs=0.05)
    assert (network.multiple, network.max_references) == (16, 0)
    assert network.max_context == (4 if name == "harmonizer" else 0)


def test_queries_and_keys_are_normalised_as_cosmos_was_trained():
    norms = [m.eps for n, m in tiny_cosmos.network().named_modules() if n.endswith(("norm_q", "norm_k"))]
    assert norms == [1e-6] * 8


def test_config_builds_the_same_network_again(cached):
    again = CosmosNetwork.from_config(cached.config)
    again.load_state_dict(cached.state_dict())
    image = tiny_cosmos.images(1, 3, 16, 32)
    assert torch.equal(again.eval()(image), cached(image))
    assert again.config == cached.config


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"image": (1, 3, 32, 40)}, "40x32.*16"),
        ({"image": (1, 3, 16, 2064)}, "2064x16.*2048"),
        ({"image": (1, 3, 16, 16), "references": (1, 1, 3, 16, 16)}, "no reference photos"),
        ({"image": (1, 3, 16, 16), "context": (1, 5, 3, 16, 16)}, "looks at 4.*got 5"),
    ],
)
def test_what_it_refuses(joint, inputs, message):
    with pytest.raises(ValueError, match=message):
        joint(**{name: torch.zeros(shape) for name, shape in inputs.items()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_context": 3}, "multiple of 4"),
        ({"sigma": 0.0}, "sigma"),
        ({"architecture": "difix"}, "difix"),
        ({"colour": 1}, "colour"),
        ({"transformer": {"heads": 3}}, "heads"),
    ],
)
def test_bad_configurations(changes, message):
    with pytest.raises(InputError, match=message):
        CosmosNetwork.from_config(tiny_cosmos.config(**changes))
