# SPDX-License-Identifier: Apache-2.0
import pytest
import tiny_cosmos
import torch

from harmonizer_ns.enhancers import specs
from harmonizer_ns.enhancers.builtin.enhancer import BuiltinEnhancer
from harmonizer_ns.enhancers.builtin.network import ChoiceNetwork
from harmonizer_ns.enhancers.checkpoint import CheckpointError
from harmonizer_ns.enhancers.cosmos.enhancer import CosmosEnhancer
from harmonizer_ns.enhancers.difix.enhancer import DifixEnhancer
from harmonizer_ns.enhancers.specs import SPECS, EnhancerSpec, load_enhancer, options_of
from harmonizer_ns.errors import InputError


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'nonsense'.*none, builtin"):
        load_enhancer("nonsense")


def test_a_checkpoint_folder_loads(tmp_path):
    BuiltinEnhancer(ChoiceNetwork(), {"note": "mine"}).save(tmp_path / "mine")
    enhancer = load_enhancer(tmp_path / "mine", device="cpu")
    assert isinstance(enhancer, BuiltinEnhancer)
    assert enhancer.metadata == {"note": "mine"}


def test_every_spec_tells_its_licence_and_how_to_install_it():
    for name, spec in SPECS.items():
        assert spec.licence, name
        assert spec.install.startswith("pip install"), name


def test_a_missing_package_is_answered_with_the_install_line(monkeypatch):
    spec = EnhancerSpec("no_such_package_here.module:Class", "pip install no-such-package", "MIT", "")
    monkeypatch.setitem(specs.SPECS, "broken", spec)
    with pytest.raises(ImportError, match="pip install no-such-package"):
        load_enhancer("broken")


def test_names_of_the_hub_load_from_there(monkeypatch, tiny_difix):
    asked = []

    def fetch(repository, revision, patterns):
        asked.append(repository)
        return tiny_difix

    monkeypatch.setattr("harmonizer_ns.enhancers.difix.formats.fetch_repository", fetch)
    for name in ("difix", "difix-ref", "nvidia/difix_ref", "somebody/else"):
        assert isinstance(load_enhancer(name), DifixEnhancer)
    assert asked == ["nvidia/difix", "nvidia/difix_ref", "nvidia/difix_ref", "somebody/else"]
    assert (load_enhancer("difix").max_references, load_enhancer("difix-ref").max_references) == (0, 1)


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
    with pytest.raises(CheckpointError, match=r"neither config\.json nor model_index\.json"):
        load_enhancer(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "resnet"}')
    with pytest.raises(CheckpointError, match="'resnet', known are choice-smooth, cosmos, difix"):
        load_enhancer(tmp_path)


def test_a_file_of_difix_needs_its_folder(tmp_path):
    torch.save({"rank_vae": 4}, tmp_path / "model_1.pkl")
    with pytest.raises(InputError, match="FOLDER --kind difix"):
        load_enhancer(tmp_path / "model_1.pkl")
