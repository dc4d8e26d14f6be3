# SPDX-License-Identifier: Apache-2.0
import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_difix import unmerged_network

from harmonizer_ns.enhancers.difix.enhancer import DifixEnhancer
from harmonizer_ns.enhancers.difix.formats import write_checkpoint
from harmonizer_ns.errors import InputError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def own(tiny_difix, tmp_path) -> Path:
    """A copy of the folder, to damage."""
    return Path(shutil.copytree(tiny_difix, tmp_path / "difix"))


def base_of(folder: Path, target: Path) -> Path:
    """The folder as plain SD-Turbo would be: no skip convolutions, no adapters, another UNet."""
    shutil.copytree(folder, target)
    vae = load_file(target / "vae" / WEIGHTS)
    plain = {n.replace(".base_layer", ""): w for n, w in vae.items() if ".lora_" not in n and "skip_conv" not in n}
    save_file(plain, target / "vae" / WEIGHTS)
    unet = load_file(target / "unet" / WEIGHTS)
    save_file({name: torch.zeros_like(tensor) for name, tensor in unet.items()}, target / "unet" / WEIGHTS)
    return target


def write_pkl(folder: Path, path: Path) -> Path:
    """What Difix's training code writes, from the weights of a folder."""
    vae = load_file(folder / "vae" / WEIGHTS)
    parameter = torch.nn.Parameter(torch.zeros(3))
    content = {
        "vae_lora_target_modules": [name.partition(".lora_A")[0] for name in vae if ".lora_A" in name],
        "rank_vae": 4,
        "state_dict_unet": load_file(folder / "unet" / WEIGHTS),
        "state_dict_vae": {name: tensor for name, tensor in vae.items() if "lora" in name or "skip" in name},
        "optimizer": torch.optim.AdamW([parameter]).state_dict(),
    }
    torch.save(content, path)
    return path


def edit(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def same(first: DifixEnhancer, second: DifixEnhancer, plane_frames, atol: float = 1e-4) -> None:
    frames = plane_frames(1, 32, 40)
    torch.testing.assert_close(first.enhance(frames).rgb, second.enhance(frames).rgb, atol=atol, rtol=0)


def test_merged_and_unmerged_adapters_agree(tiny_difix, plane_frames):
    merged, unmerged = DifixEnhancer.from_pretrained(tiny_difix), DifixEnhancer(unmerged_network(tiny_difix))
    assert not any("lora" in name for name in merged.network.state_dict())
    assert sum("lora_A" in name for name in unmerged.network.state_dict()) == 34  # of the small architecture
    assert all(parameter.requires_grad for parameter in merged.network.parameters())
    same(merged, unmerged, plane_frames)


def test_adapters_matter(tiny_difix, plane_frames):
    unmerged = DifixEnhancer(unmerged_network(tiny_difix))
    frames = plane_frames(1)
    before = unmerged.enhance(frames).rgb
    for name, parameter in unmerged.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    assert (unmerged.enhance(frames).rgb - before).abs().mean() > 0.01


@pytest.mark.parametrize("base", ["difix", "sd-turbo"])
def test_pickles_and_folders_agree(tiny_difix, tmp_path, plane_frames, base):
    folder = tiny_difix if base == "difix" else base_of(tiny_difix, tmp_path / "base")
    pkl = write_pkl(tiny_difix, tmp_path / "model_2001.pkl")
    loaded = DifixEnhancer.from_pretrained(folder, checkpoint=pkl)
    same(loaded, DifixEnhancer.from_pretrained(tiny_difix), plane_frames)


def test_what_is_written_as_a_pickle_is_read_again(tiny_difix, tmp_path, plane_frames):
    unmerged = DifixEnhancer(unmerged_network(tiny_difix))
    write_checkpoint(unmerged.network, tmp_path / "model_1.pkl")
    content = torch.load(tmp_path / "model_1.pkl", weights_only=True)
    assert content["rank_vae"] == 4
    assert len(content["vae_lora_target_modules"]) == 34
    again = DifixEnhancer.from_pretrained(base_of(tiny_difix, tmp_path / "base"), checkpoint=tmp_path / "model_1.pkl")
    same(again, unmerged, plane_frames)
    with pytest.raises(InputError, match="needs the vae's adapters"):
        write_checkpoint(again.network, tmp_path / "model_2.pkl")


def test_our_own_folders_need_no_text_encoder(tiny_difix, tmp_path, plane_frames):
    enhancer = DifixEnhancer.from_pretrained(tiny_difix, max_references=2)
    enhancer.save(tmp_path / "own")
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["config.json", "model.safetensors"]
    again = DifixEnhancer.from_pretrained(tmp_path / "own")
    assert again.max_references == 2
    assert again.metadata == enhancer.metadata
    same(again, enhancer, plane_frames)


def test_weights_may_be_in_several_files_and_in_torch_format(own, tiny_difix, plane_frames):
    weights = load_file(own / "unet" / WEIGHTS)
    names = sorted(weights)
    halves = {"a": names[::2], "b": names[1::2]}
    for half, some in halves.items():
        save_file({name: weights[name] for name in some}, own / "unet" / f"{half}.safetensors")
    index = {"weight_map": {name: f"{half}.safetensors" for half, some in halves.items() for name in some}}
    (own / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    (own / "unet" / WEIGHTS).unlink()
    torch.save(load_file(own / "vae" / WEIGHTS), own / "vae" / "diffusion_pytorch_model.bin")
    (own / "vae" / WEIGHTS).unlink()
    same(DifixEnhancer.from_pretrained(own), DifixEnhancer.from_pretrained(tiny_difix), plane_frames, atol=0)


def test_old_names_of_attention_layers_are_read(own, tiny_difix, plane_frames):
    def rename(tensors):
        for name in list(tensors):
            old = name.replace(".to_q.", ".query.").replace(".to_out.0.", ".proj_attn.")
            tensors[old] = tensors.pop(name)

    edit(own / "vae" / WEIGHTS, rename)
    same(DifixEnhancer.from_pretrained(own), DifixEnhancer.from_pretrained(tiny_difix), plane_frames, atol=0)


def test_the_prompt_reaches_the_network(tiny_difix, plane_frames):
    frames = plane_frames(1)
    usual, other = (DifixEnhancer.from_pretrained(tiny_difix, **p) for p in ({}, {"prompt": "xyz"}))
    assert not torch.allclose(usual.enhance(frames).rgb, other.enhance(frames).rgb, atol=1e-3)


def test_plain_stable_diffusion_gets_new_skip_convolutions(tiny_difix, tmp_path, caplog):
    network = DifixEnhancer.from_pretrained(base_of(tiny_difix, tmp_path / "base")).network
    assert "no skip convolutions" in caplog.text
    for i in (1, 2, 3, 4):
        assert bool((getattr(network.vae.decoder, f"skip_conv_{i}").weight == 1e-5).all())


def test_licences_are_told_when_weights_load(tiny_difix, caplog):
    with caplog.at_level(logging.WARNING):
        DifixEnhancer.from_pretrained(tiny_difix)
    assert caplog.text.count("NVIDIA License, non-commercial") == 1


class Spy:
    """Pickles to a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_a_pickle_with_code_is_refused_and_nothing_runs(tiny_difix, tmp_path):
    trace, pkl = tmp_path / "it ran", tmp_path / "model.pkl"
    torch.save({"state_dict_unet": {}, "state_dict_vae": {}, "rank_vae": Spy(trace)}, pkl)
    with pytest.raises(InputError, match=r"model\.pkl was refused, it holds more than plain data"):
        DifixEnhancer.from_pretrained(tiny_difix, checkpoint=pkl)
    pkl.write_bytes(pickle.dumps(Spy(trace), protocol=2))
    with pytest.raises(InputError, match=r"model\.pkl"):
        DifixEnhancer.from_pretrained(tiny_difix, checkpoint=pkl)
    assert not trace.exists()


def test_code_in_a_folder_never_runs(own, tmp_path):
    trace = tmp_path / "it ran"
    for part in ("", "unet", "vae", "scheduler", "tokenizer"):
        for name in ("pipeline.py", "autoencoder_kl.py", "__init__.py"):
            (own / part / name).write_text(f"open({str(trace)!r}, 'w')")
    settings = own / "tokenizer" / "tokenizer_config.json"
    content = {**json.loads(settings.read_text()), "auto_map": {"AutoTokenizer": ["pipeline.Tokenizer", None]}}
    settings.write_text(json.dumps(content))
    (own / "vae" / WEIGHTS).rename(own / "weights")
    torch.save({"weight": Spy(trace)}, own / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="was refused"):
        DifixEnhancer.from_pretrained(own)
    (own / "weights").rename(own / "vae" / WEIGHTS)
    DifixEnhancer.from_pretrained(own)
    assert not trace.exists()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_truncated_weights_are_named(own, part):
    path = next((own / part).glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"{part}/{path.name} is not a whole safetensors file"):
        DifixEnhancer.from_pretrained(own)


def test_a_truncated_pickle_is_named(tiny_difix, tmp_path):
    pkl = write_pkl(tiny_difix, tmp_path / "model_1.pkl")
    pkl.write_bytes(pkl.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"model_1\.pkl is not a whole torch checkpoint"):
        DifixEnhancer.from_pretrained(tiny_difix, checkpoint=pkl)


def test_every_missing_and_unexpected_weight_is_named(own):
    def damage(tensors):
        for i in range(8):
            tensors[f"new_{i}"] = torch.zeros(1)
        del tensors["conv_in.weight"], tensors["conv_out.bias"]
        tensors["conv_in.bias"] = torch.zeros(3)

    edit(own / "unet" / WEIGHTS, damage)
    with pytest.raises(InputError) as caught:
        DifixEnhancer.from_pretrained(own)
    lines = str(caught.value).splitlines()
    assert [line for line in lines if line.startswith("unexpected")] == [f"unexpected: unet.new_{i}" for i in range(8)]
    assert [line for line in lines if line.startswith("missing")] == [
        "missing: unet.conv_in.weight",
        "missing: unet.conv_out.bias",
    ]
    assert "misshapen: unet.conv_in.bias: (3,), the network has (16,)" in lines


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("decoder.conv_in.lora_B.vae_skip.weight", "incomplete, it has no decoder.conv_in.lora_B.vae_skip.weight"),
        ("decoder.conv_in.base_layer.weight", "incomplete, it has no decoder.conv_in.weight"),
        (
            "decoder.skip_conv_2.lora_A.vae_skip.weight",
            "incomplete, it has no decoder.skip_conv_2.lora_A.vae_skip.weight",
        ),
    ],
)
def test_half_an_adapter_is_refused(own, name, message):
    edit(own / "vae" / WEIGHTS, lambda tensors: tensors.pop(name))
    with pytest.raises(InputError, match=message):
        DifixEnhancer.from_pretrained(own)


@pytest.mark.parametrize("shape", [(), (4,), (3, 3), (0, 4)])
def test_an_adapter_that_does_not_fit_is_refused(own, shape):
    name = "decoder.conv_in.lora_B.vae_skip.weight"
    edit(own / "vae" / WEIGHTS, lambda tensors: tensors.update({name: torch.zeros(shape)}))
    with pytest.raises(InputError, match=r"the adapter of decoder\.conv_in is damaged"):
        DifixEnhancer.from_pretrained(own)


def test_a_pickle_without_a_weight_is_refused(tiny_difix, tmp_path):
    pkl = write_pkl(tiny_difix, tmp_path / "model_1.pkl")
    content = torch.load(pkl, weights_only=True)
    del content["state_dict_unet"]["conv_in.weight"]
    torch.save(content, pkl)
    with pytest.raises(InputError, match=r"missing: unet\.conv_in\.weight"):
        DifixEnhancer.from_pretrained(tiny_difix, checkpoint=pkl)
    del content["state_dict_vae"]["decoder.skip_conv_3.base_layer.weight"]
    torch.save(content, pkl)
    with pytest.raises(InputError, match=r"incomplete, it has no decoder\.skip_conv_3\.weight"):
        DifixEnhancer.from_pretrained(tiny_difix, checkpoint=pkl)
    torch.save({"model": {}}, pkl)
    with pytest.raises(InputError, match="is not a checkpoint of Difix"):
        DifixEnhancer.from_pretrained(tiny_difix, checkpoint=pkl)


def test_folders_of_other_models_are_refused(own, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no model_index\.json, scheduler, text_encoder, tokenizer, unet, vae"):
        DifixEnhancer.from_pretrained(tmp_path / "empty")
    index = json.loads((own / "model_index.json").read_text())
    (own / "model_index.json").write_text(json.dumps({**index, "unet": ["diffusers", "UNet3DConditionModel"]}))
    with pytest.raises(InputError, match=r"another model: its unet is .*UNet3DConditionModel"):
        DifixEnhancer.from_pretrained(own)
    (own / "model_index.json").write_text(json.dumps(index))
    config = json.loads((own / "unet" / "config.json").read_text())
    (own / "unet" / "config.json").write_text(json.dumps({**config, "cross_attention_dim": 24}))
    with pytest.raises(InputError, match=r"misshapen: prompt_embedding: \(1, 24, 16\), the network has"):
        DifixEnhancer.from_pretrained(own)


def test_a_text_encoder_without_a_weight_is_refused(own):
    edit(own / "text_encoder" / "model.safetensors", lambda t: t.pop("text_model.final_layer_norm.weight"))
    with pytest.raises(InputError, match=r"missing: .*final_layer_norm\.weight"):
        DifixEnhancer.from_pretrained(own)


def test_a_tokenizer_without_vocabulary_is_refused(own):
    (own / "tokenizer" / "vocab.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer has no vocab\.json"):
        DifixEnhancer.from_pretrained(own)


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "tokenizer/vocab.json"])
def test_damaged_json_is_named(own, file):
    (own / file).write_text('{"broken": ')
    with pytest.raises(InputError, match=file.partition("/")[0]):
        DifixEnhancer.from_pretrained(own)


def test_an_unreachable_hub_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"nvidia/difix .*cannot be fetched.*give the folder"):
        DifixEnhancer.from_pretrained("nvidia/difix", revision="main")


def test_what_is_no_repository_is_not_asked_for():
    with pytest.raises(InputError, match="neither a folder nor a repository"):
        DifixEnhancer.from_pretrained("/no/such/folder")
