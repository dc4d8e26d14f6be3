# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import tiny_cosmos
import torch

from harmonizer_ns.cli import convert, enhancers
from harmonizer_ns.enhancers.cosmos import CosmosEnhancer
from harmonizer_ns.enhancers.cosmos_formats import upstream_names
from harmonizer_ns.enhancers.specs import SPECS
from harmonizer_ns.errors import InputError


def test_a_release_becomes_a_folder(tmp_path, capsys):
    network = tiny_cosmos.network()
    state, parts = network.state_dict(), {"transformer": {}, "vae": {}}
    for ours, upstream in upstream_names(network).items():
        part, _, name = upstream.partition(".")
        parts[part][("net." if part == "transformer" else "") + name] = state[ours]
    torch.save({"state_dict_unet": parts["transformer"], "state_dict_vae": parts["vae"]}, tmp_path / "release.pkl")
    (tmp_path / "tiny.json").write_text(json.dumps(network.config))

    convert.main([str(tmp_path / "release.pkl"), str(tmp_path / "folder"), "--config", str(tmp_path / "tiny.json")])
    assert "NVIDIA Open Model License" in capsys.readouterr().out
    again = CosmosEnhancer.from_pretrained(tmp_path / "folder").network
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())

    with pytest.raises(InputError, match="misshapen: transformer"):
        convert.main([str(tmp_path / "release.pkl"), str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()
    (tmp_path / "tiny.json").write_text("[]")
    with pytest.raises(InputError, match=r"tiny\.json"):
        convert.main([str(tmp_path / "release.pkl"), str(tmp_path / "other"), "--config", str(tmp_path / "tiny.json")])


def test_every_enhancer_is_listed(capsys):
    enhancers.main([])
    printed = capsys.readouterr().out
    for name, spec in SPECS.items():
        assert f"{name}: " in printed
        assert spec.licence in printed
        assert spec.install in printed
