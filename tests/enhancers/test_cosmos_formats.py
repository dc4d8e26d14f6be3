# SPDX-License-Identifier: Apache-2.0
import io
import os
import pickle

import pytest
import tiny_cosmos
import torch

from harmonizer_ns.enhancers.checkpoint import load_checkpoint, read_states, save_checkpoint
from harmonizer_ns.enhancers.cosmos import CosmosEnhancer, CosmosNetwork, formats
from harmonizer_ns.enhancers.cosmos.formats import convert, release_config, upstream_names
from harmonizer_ns.enhancers.table import SPECS
from harmonizer_ns.errors import InputError

KNOWN_NAMES = """
transformer.patch_embed.proj.weight transformer.x_embedder.proj.1.weight
transformer.time_embed.t_embedder.linear_2.weight transformer.t_embedder.1.linear_2.weight
transformer.time_embed.norm.weight transformer.t_embedding_norm.weight
transformer.transformer_blocks.7.norm1.linear_1.weight transformer.blocks.7.adaln_modulation_self_attn.1.weight
transformer.transformer_blocks.7.norm2.linear_2.weight transformer.blocks.7.adaln_modulation_cross_attn.2.weight
transformer.transformer_blocks.7.norm3.linear_1.weight transformer.blocks.7.adaln_modulation_mlp.1.weight
transformer.transformer_blocks.7.attn1.to_q.weight transformer.blocks.7.self_attn.q_proj.weight
transformer.transformer_blocks.7.attn1.norm_k.weight transformer.blocks.7.self_attn.k_norm.weight
transformer.transformer_blocks.7.attn2.to_v.weight transformer.blocks.7.cross_attn.v_proj.weight
transformer.transformer_blocks.7.attn2.to_out.0.weight transformer.blocks.7.cross_attn.output_proj.weight
transformer.transformer_blocks.7.ff.net.0.proj.weight transformer.blocks.7.mlp.layer1.weight
transformer.transformer_blocks.7.ff.net.2.weight transformer.blocks.7.mlp.layer2.weight
transformer.norm_out.linear_1.weight transformer.final_layer.adaln_modulation.1.weight
transformer.proj_out.weight transformer.final_layer.linear.weight
vae.quant_conv.bias vae.conv1.bias
vae.post_quant_conv.weight vae.conv2.weight
vae.encoder.conv_in.weight vae.encoder.conv1.weight
vae.encoder.conv_out.bias vae.encoder.head.2.bias
vae.encoder.norm_out.gamma vae.encoder.head.0.gamma
vae.encoder.down_blocks.3.conv1.weight vae.encoder.downsamples.3.residual.2.weight
vae.encoder.down_blocks.3.conv_shortcut.weight vae.encoder.downsamples.3.shortcut.weight
vae.encoder.down_blocks.5.time_conv.weight vae.encoder.downsamples.5.time_conv.weight
vae.encoder.down_blocks.8.resample.1.bias vae.encoder.downsamples.8.resample.1.bias
vae.encoder.mid_block.resnets.0.norm1.gamma vae.encoder.middle.0.residual.0.gamma
vae.encoder.mid_block.attentions.0.to_qkv.weight vae.encoder.middle.1.to_qkv.weight
vae.encoder.mid_block.resnets.1.conv2.weight vae.encoder.middle.2.residual.6.weight
vae.decoder.conv_in.bias vae.decoder.conv1.bias
vae.decoder.mid_block.resnets.1.norm2.gamma vae.decoder.middle.2.residual.3.gamma
vae.decoder.up_blocks.0.resnets.2.conv1.weight vae.decoder.upsamples.2.residual.2.weight
vae.decoder.up_blocks.0.upsamplers.0.time_conv.weight vae.decoder.upsamples.3.time_conv.weight
vae.decoder.up_blocks.1.resnets.0.conv_shortcut.bias vae.decoder.upsamples.4.shortcut.bias
vae.decoder.up_blocks.2.upsamplers.0.resample.1.weight vae.decoder.upsamples.11.resample.1.weight
vae.decoder.up_blocks.3.resnets.2.norm1.gamma vae.decoder.upsamples.14.residual.0.gamma
vae.decoder.norm_out.gamma vae.decoder.head.0.gamma
"""


def release(network, prefix="net."):
    """A checkpoint as upstream's training writes it."""
    names = upstream_names(network)
    parts = {"transformer": {}, "vae": {}}
    for name, value in network.state_dict().items():
        part, _, rest = names[name].partition(".")
        parts[part][rest] = value.clone()
    unet = {prefix + name: value for name, value in parts["transformer"].items()}
    unet |= {prefix[:-1] + "_ema." + name: value + 1 for name, value in parts["transformer"].items()}
    unet |= {prefix + name: torch.zeros(1) for name in ("accum_iteration", "pos_embedder.seq")}
    unet[prefix + "blocks.0.self_attn.q_norm._extra_state"] = io.BytesIO(b"state")
    return {"state_dict_unet": unet, "state_dict_vae": parts["vae"], "net_disc": None, "optimizer": {"step": 7}}


@pytest.fixture(scope="module")
def network():
    return tiny_cosmos.network()


def test_names_of_the_released_networks():
    with torch.device("meta"):
        names = upstream_names(CosmosNetwork.from_config(release_config(SPECS["harmonizer"])))
    assert len(set(names.values())) == len(names)
    for pair in KNOWN_NAMES.strip().splitlines():
        ours, upstream = pair.split()
        assert names[ours] == upstream


@pytest.mark.parametrize("name", ["fixer", "harmonizer"])
def test_configurations_are_those_of_the_releases(name):
    with torch.device("meta"):
        ours = CosmosNetwork.from_config(tiny_cosmos.config(name))
        released = CosmosNetwork.from_config(release_config(SPECS[name]))
    assert ours.config == released.config


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["net.", "dit.", "module.net."])
def test_round_trip(network, tmp_path, prefix):
    torch.save(release(network, prefix), tmp_path / "release.pkl")
    checkpoint, ignored = convert(read_states(tmp_path / "release.pkl"), network.config, "here")
    save_checkpoint(tmp_path / "folder", checkpoint)
    again = CosmosNetwork.from_checkpoint(load_checkpoint(tmp_path / "folder"))
    image, context = tiny_cosmos.images(1, 3, 32, 32), tiny_cosmos.images(1, 4, 3, 32, 32, seed=1)
    assert torch.equal(again(image, context=context), network(image, context=context))
    assert len(ignored) == len(list(network.transformer.parameters())) + 3
    assert checkpoint.metadata["licence"] == "NVIDIA Open Model License"


def test_precision_is_kept(network):
    content = release(network)
    content["state_dict_vae"] = {name: value.bfloat16() for name, value in content["state_dict_vae"].items()}
    weights = convert(content, network.config, "here")[0].weights
    assert weights["vae.encoder.conv_in.weight"].dtype == torch.bfloat16
    assert weights["transformer.proj_out.weight"].dtype == torch.float32


def test_every_name_that_does_not_fit_is_told(network):
    content = release(network)
    missing = [*list(content["state_dict_vae"])[:8], "decoder.head.2.weight"]
    for name in missing:
        del content["state_dict_vae"][name]
    content["state_dict_unet"] |= {f"net.blocks.9.extra_{i}": torch.zeros(2) for i in range(7)}
    content["state_dict_unet"]["net.final_layer.linear.weight"] = torch.zeros(3, 2)
    with pytest.raises(InputError) as raised:
        convert(content, network.config, "here")
    message = str(raised.value)
    assert all(f"missing: vae.{name}" in message for name in missing)
    assert all(f"unexpected: transformer.blocks.9.extra_{i}" in message for i in range(7))
    assert "misshapen: transformer.final_layer.linear.weight: (3, 2), " in message
    assert message.count("\n") == 9 + 7 + 1


def test_other_autoencoders_are_recognised(network):
    content = release(network)
    content["state_dict_vae"]["decoder.skip_conv_0.weight"] = torch.zeros(1)
    with pytest.raises(InputError, match="skip connections"):
        convert(content, network.config, "here")
    content["state_dict_vae"] = {"encoder.stages.0.weight": torch.zeros(1)}
    with pytest.raises(InputError, match="TorchScript"):
        convert(content, network.config, "here")


def test_the_release_without_context_is_known_by_its_name(network, tmp_path, monkeypatch):
    """In both suffixes; the service's own is a program, which is refused."""
    tiny = {key: value for key, value in network.config.items() if key != "max_context"}
    monkeypatch.setattr(formats, "TRANSFORMER", tiny["transformer"])
    monkeypatch.setattr(formats, "release_config", lambda *given: release_config(*given) | {"vae": tiny["vae"]})
    for name, context in {"harmonizer_nontemporal.pt": 0, "harmonizer_nontemporal.pkl": 0, "my.pkl": 4}.items():
        torch.save(release(network), tmp_path / name)
        enhancer = CosmosEnhancer.from_pretrained(tmp_path / name, cut=False)
        assert enhancer.max_context == context
        image = tiny_cosmos.images(1, 3, 32, 32)
        assert torch.equal(enhancer.network(image), network(image))
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "harmonizer_nontemporal.pt")
    with pytest.raises(InputError, match=r"TorchScript program, and no file is run: take .*diffusion_harmonizer\.pkl"):
        read_states(tmp_path / "harmonizer_nontemporal.pt")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save({"state_dict_unet": Bomb(), "state_dict_vae": {}}, tmp_path / "bad.pkl")
    with pytest.raises(InputError, match=r"bad\.pkl"):
        read_states(tmp_path / "bad.pkl")
    assert not (tmp_path / "exploded").exists()


def test_damaged_and_other_files(network, tmp_path):
    torch.save(release(network), tmp_path / "whole.pkl")
    data = (tmp_path / "whole.pkl").read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 100):
        (tmp_path / "cut.pkl").write_bytes(data[:size])
        with pytest.raises(InputError, match=r"cut\.pkl"):
            read_states(tmp_path / "cut.pkl")
    torch.save({"model": {}}, tmp_path / "other.pkl")
    with pytest.raises(InputError, match="state_dict_unet"):
        read_states(tmp_path / "other.pkl")
    with pytest.raises(InputError, match=r"absent\.pkl is missing"):
        read_states(tmp_path / "absent.pkl")


def test_a_release_of_another_size_names_its_weights(network, tmp_path):
    torch.save(release(network), tmp_path / "pretrained_fixer.pkl")
    with pytest.raises(InputError, match=r"misshapen: transformer\.x_embedder\.proj\.1\.weight"):
        CosmosEnhancer.from_pretrained(tmp_path / "pretrained_fixer.pkl")
