# SPDX-License-Identifier: Apache-2.0
import pytest

from harmonizer_ns.enhancers import specs
from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.enhancers.builtin import BuiltinEnhancer
from harmonizer_ns.enhancers.builtin_network import ChoiceNetwork
from harmonizer_ns.enhancers.specs import SPECS, EnhancerSpec, load_enhancer


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'nonsense'.*none, builtin"):
        load_enhancer("nonsense")


def test_a_checkpoint_folder_loads(tmp_path):
    BuiltinEnhancer(ChoiceNetwork(), {}, {"note": "mine"}).save(tmp_path / "mine")
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


@pytest.mark.parametrize("name", SPECS)
def test_what_loads_is_an_enhancer(name):
    assert isinstance(load_enhancer(name), Enhancer)
