# SPDX-License-Identifier: Apache-2.0
import json
import re

import pytest
import tiny_cosmos
import torch

from harmonizer_ns.enhancers import specs
from harmonizer_ns.enhancers.builtin import BuiltinEnhancer, BuiltinNetwork
from harmonizer_ns.enhancers.cosmos import CosmosEnhancer
from harmonizer_ns.enhancers.difix import DifixEnhancer
from harmonizer_ns.enhancers.specs import SPECS, Architecture, EnhancerSpec, load_enhancer, options_of
from harmonizer_ns.errors import InputError


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'nonsense'.*none, builtin"):
        load_enhancer("nonsense")


def test_a_checkpoint_folder_loads(tmp_path):
    BuiltinEnhancer(BuiltinNetwork(), {"note": "mine"}).save(tmp_path / "mine")
    enhancer = load_enhancer(tmp_path / "mine", device="cpu")
    assert isinstance(enhancer, BuiltinEnhancer)
    assert enhancer.metadata == {"note": "mine"}


@pytest.mark.parametrize(("name", "meant"), [("bultin", "builtin"), ("difx", "difix"), ("Harmonizer", "harmonizer")])
def test_a_misspelt_name_is_answered_with_the_one_that_was_meant(name, meant):
    with pytest.raises(InputError, match=f"did you mean {meant}"):
        options_of(name)


@pytest.mark.parametrize(("name", "spec"), [(name, spec) for name, spec in SPECS.items() if not spec.repository])
def test_the_table_says_what_enhancers_look_at(name, spec):
    enhancer = load_enhancer(name)
    assert (enhancer.max_references, enhancer.max_context) == (spec.max_references, spec.max_context)


def test_a_missing_package_is_answered_with_the_install_line(monkeypatch):
    monkeypatch.setitem(specs.ARCHITECTURES, "alien", Architecture("no_such_package_here.module:Class", ""))
    monkeypatch.setitem(SPECS, "broken", EnhancerSpec("alien", "MIT", "", install="pip install no-such-package"))
    with pytest.raises(ImportError, match="pip install no-such-package"):
        load_enhancer("broken")


@pytest.fixture
def hub(monkeypatch, tiny_difix, tmp_path):
    """What is asked of the Hub, which has Difix under three names and a built-in network."""
    BuiltinEnhancer(BuiltinNetwork()).save(tmp_path / "mine")
    folders = dict.fromkeys(("nvidia/difix", "nvidia/difix_ref", "somebody/else"), tiny_difix)
    folders["me/mine"] = tmp_path / "mine"
    asked = []

    def fetch(repository, revision, allow_patterns):
        asked.append((repository, revision))
        return folders[repository]

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    return asked


def test_names_of_the_hub_load_from_there(hub):
    for name in ("difix", "difix-ref", "nvidia/difix_ref", "somebody/else"):
        assert isinstance(load_enhancer(name), DifixEnhancer)
    assert {name for name, _ in hub} == {"nvidia/difix", "nvidia/difix_ref", "somebody/else"}
    assert (load_enhancer("difix").max_references, load_enhancer("difix-ref").max_references) == (0, 1)


def test_our_own_folders_load_from_the_hub_in_the_revision_that_is_asked_for(hub):
    assert isinstance(load_enhancer("me/mine", revision="v2"), BuiltinEnhancer)
    assert hub[-1] == ("me/mine", "v2")


def test_a_folder_tells_which_enhancer_it_holds(tiny_difix, tmp_path):
    CosmosEnhancer(tiny_cosmos.network()).save(tmp_path / "cosmos")
    load_enhancer(tiny_difix).save(tmp_path / "difix")
    assert isinstance(load_enhancer(tmp_path / "cosmos"), CosmosEnhancer)
    assert isinstance(load_enhancer(tmp_path / "difix"), DifixEnhancer)


def test_options_reach_the_enhancer_and_unknown_ones_are_refused(tiny_difix):
    enhancer = load_enhancer(tiny_difix, dtype=torch.bfloat16, batch=2)
    assert (enhancer.network.prompt_embedding.dtype, enhancer.batch) == (torch.bfloat16, 2)
    assert {"dtype", "tile", "compiled", "tiny_decoder"} <= options_of(tiny_difix)
    assert "tile" not in options_of("builtin")
    with pytest.raises(InputError, match="builtin has no option tile"):
        load_enhancer("builtin", tile=64)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"neither config\.json nor model_index\.json"):
        load_enhancer(tmp_path)
    for name in ("resnet", None, 5, ["difix"], {}):
        (tmp_path / "config.json").write_text(json.dumps({"architecture": name}))
        with pytest.raises(InputError, match=rf"{re.escape(repr(name))}, known are choice-smooth, cosmos, difix"):
            load_enhancer(tmp_path)


def test_a_file_of_difix_needs_its_folder(tmp_path):
    torch.save({"rank_vae": 4}, tmp_path / "model_1.pkl")
    with pytest.raises(InputError, match="FOLDER --kind difix"):
        load_enhancer(tmp_path / "model_1.pkl")
