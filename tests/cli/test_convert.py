# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import tiny_cosmos
import torch
from tiny_difix import unmerged_network

from harmonizer_ns.cli import convert, enhancers
from harmonizer_ns.enhancers.cosmos.enhancer import CosmosEnhancer
from harmonizer_ns.enhancers.cosmos.formats import upstream_names
from harmonizer_ns.enhancers.difix.enhancer import DifixEnhancer
from harmonizer_ns.enhancers.difix.formats import write_checkpoint
from harmonizer_ns.enhancers.specs import SPECS, load_enhancer
from harmonizer_ns.errors import InputError
from harmonizer_ns.types import as_frames


def run(arguments: list[str]) -> None:
    convert.main(convert.parse(arguments))


def test_a_release_becomes_a_folder(tmp_path, capsys):
    network = tiny_cosmos.network()
    state, parts = network.state_dict(), {"transformer": {}, "vae": {}}
    for ours, upstream in upstream_names(network).items():
        part, _, name = upstream.partition(".")
        parts[part][("net." if part == "transformer" else "") + name] = state[ours]
    torch.save({"state_dict_unet": parts["transformer"], "state_dict_vae": parts["vae"]}, tmp_path / "release.pkl")
    (tmp_path / "tiny.json").write_text(json.dumps(network.config))

    run([str(tmp_path / "release.pkl"), str(tmp_path / "folder"), "--config", str(tmp_path / "tiny.json")])
    assert "NVIDIA Open Model License" in capsys.readouterr().out
    again = CosmosEnhancer.from_pretrained(tmp_path / "folder").network
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())

    with pytest.raises(InputError, match="misshapen: transformer"):
        run([str(tmp_path / "release.pkl"), str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()
    (tmp_path / "tiny.json").write_text("[]")
    with pytest.raises(InputError, match=r"tiny\.json"):
        run([str(tmp_path / "release.pkl"), str(tmp_path / "other"), "--config", str(tmp_path / "tiny.json")])


def test_a_checkpoint_of_difix_becomes_a_folder(tiny_difix, tmp_path):
    unmerged = DifixEnhancer(unmerged_network(tiny_difix))
    write_checkpoint(unmerged.network, tmp_path / "model_1.pkl")
    names = str(tmp_path / "model_1.pkl"), str(tmp_path / "folder")
    run([*names, "--kind", "difix", "--base", str(tiny_difix)])
    again = load_enhancer(tmp_path / "folder")
    assert isinstance(again, DifixEnhancer)
    frames = as_frames(torch.rand(3, 32, 40))
    torch.testing.assert_close(again.enhance(frames).rgb, unmerged.enhance(frames).rgb, atol=1e-4, rtol=0)
    assert "non-commercial" in again.metadata["licence"]


def test_every_enhancer_is_listed(capsys):
    enhancers.main(enhancers.parse([]))
    printed = capsys.readouterr().out
    for name, spec in SPECS.items():
        assert f"{name}: " in printed
        assert spec.licence in printed
        assert spec.install in printed


def test_weights_on_this_machine_are_told_from_those_on_the_hub(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--nvidia--difix_ref" / "snapshots").mkdir(parents=True)
    enhancers.main(enhancers.parse([]))
    printed = capsys.readouterr().out
    assert "weights: nvidia/difix, downloaded from the Hugging Face Hub when first used" in printed
    assert f"weights: nvidia/difix_ref, on this machine: {tmp_path / 'models--nvidia--difix_ref'}" in printed
    assert printed.count("weights: part of the project") == 2
