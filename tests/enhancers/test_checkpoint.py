# SPDX-License-Identifier: Apache-2.0
import json
import os

import pytest
import torch
from torch import nn

from harmonizer_ns.enhancers.builtin import BuiltinEnhancer
from harmonizer_ns.enhancers.builtin.network import BuiltinNetwork
from harmonizer_ns.enhancers.checkpoint import (
    CONFIG,
    WEIGHTS,
    Checkpoint,
    load_checkpoint,
    load_weights,
    read_model,
    save_checkpoint,
)
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.errors import InputError
from harmonizer_ns.types import as_frames


def _checkpoint(value: float = 1.0) -> Checkpoint:
    weights = {"a": torch.full((3, 4), value), "b": torch.arange(5)}
    return Checkpoint("choice-smooth", {"width": 7}, weights, {"licence": "Apache-2.0"})


def _edit_config(folder, **changes) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(tmp_path, _checkpoint())
    return tmp_path


def test_round_trip(folder):
    loaded = load_checkpoint(folder)
    assert (loaded.architecture, loaded.kwargs) == ("choice-smooth", {"width": 7})
    assert loaded.metadata == {"licence": "Apache-2.0"}
    assert loaded.weights.keys() == {"a", "b"}
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in _checkpoint().weights.items())


def test_saving_again_replaces_the_weights_and_keeps_other_files(folder):
    (folder / "README.md").write_text("card")
    for value in (2.0, 3.0, 3.0):
        save_checkpoint(folder, _checkpoint(value))
        assert load_checkpoint(folder).weights["a"].unique().item() == value
    assert len(list(folder.glob("*.safetensors"))) == 1
    assert (folder / "README.md").read_text() == "card"


@pytest.mark.parametrize("interrupted_at", [1, 2])
def test_an_interrupted_save_leaves_the_old_checkpoint_whole(folder, monkeypatch, interrupted_at):
    calls, replace = [], os.replace

    def failing_replace(source, target):
        calls.append(target)
        if len(calls) == interrupted_at:
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr("os.replace", failing_replace)
    with pytest.raises(InputError, match="disk full"):
        save_checkpoint(folder, _checkpoint(2.0))
    assert load_checkpoint(folder).weights["a"].unique().item() == 1.0
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        load_checkpoint(folder)


def test_a_truncated_weights_file_is_refused(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-5])
    with pytest.raises(InputError, match="truncated"):
        load_checkpoint(folder)


def test_weights_that_are_no_safetensors_are_refused_even_with_the_right_hash(folder):
    import hashlib

    (folder / WEIGHTS).write_bytes(b"\x80\x04pickle")
    _edit_config(folder, sha256=hashlib.sha256(b"\x80\x04pickle").hexdigest())
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_checkpoint(folder)


def test_a_changed_byte_is_refused(folder):
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(InputError, match="does not match"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "'other'"),
        ({"version": 99}, "version 99"),
        ({"kwargs": [1]}, "'kwargs' should be a dict"),
        ({"sha256": None}, "'sha256' should be a str"),
        ({"weights": "../elsewhere.safetensors"}, "beside it"),
        ({"weights": "model.pkl"}, "beside it"),
    ],
)
def test_a_wrong_configuration_is_refused(folder, changes, message):
    _edit_config(folder, **changes)
    with pytest.raises(InputError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["{", "[1, 2]", "null"])
def test_a_configuration_that_is_no_json_object_is_refused(folder, text):
    (folder / CONFIG).write_text(text)
    with pytest.raises(InputError, match=CONFIG):
        load_checkpoint(folder)


def test_weights_must_fit_the_module_exactly():
    module = nn.Linear(2, 3)
    good = module.state_dict()
    with pytest.raises(InputError, match="missing: bias"):
        load_weights(module, {"weight": good["weight"]})
    with pytest.raises(InputError, match="unexpected: extra"):
        load_weights(module, {**good, "extra": torch.zeros(1)})
    with pytest.raises(InputError, match="misshapen: bias"):
        load_weights(module, {**good, "bias": torch.zeros(4)})


def test_another_architecture_is_refused_by_the_builtin_enhancer(folder):
    save_checkpoint(folder, Checkpoint("unet", {}, {"a": torch.zeros(1)}))
    with pytest.raises(InputError, match="'unet'"):
        BuiltinEnhancer.from_pretrained(folder)


def test_arguments_that_the_network_does_not_know_are_refused(folder):
    with pytest.raises(InputError, match="width"):
        BuiltinEnhancer.from_pretrained(folder)


@pytest.mark.parametrize("width", ["many", [48, 80], [[]], None, {"a": 1}, -4])
def test_arguments_of_another_kind_are_refused_with_the_folder(tmp_path, width):
    save_checkpoint(tmp_path, Checkpoint("choice-smooth", {"trunk": width}, {"a": torch.zeros(1)}))
    with pytest.raises(InputError, match=f"{tmp_path}: no BuiltinNetwork can be built"):
        BuiltinEnhancer.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_weights_of_another_kind_are_refused_by_name(dtype):
    module = nn.Linear(3, 2)
    weights = {**module.state_dict(), "bias": torch.zeros(2, dtype=dtype)}
    with pytest.raises(InputError, match=f"the weights of here are of another kind: bias holds {dtype}"):
        load_weights(module, weights, "here", assign=True)
    with pytest.raises(InputError, match=r"weight holds torch\.float32 \(torch\.sparse_coo\)"):
        load_weights(module, {**module.state_dict(), "weight": torch.ones(2, 3).to_sparse()}, "here", assign=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_weights_of_several_precisions_run_in_that_of_the_first(tmp_path, dtype):
    network = BuiltinNetwork(4, 4, (4, 4, 4))
    network.merge.to(dtype)
    network.save(tmp_path, {})
    repaired = BuiltinEnhancer.from_pretrained(tmp_path).enhance(as_frames(torch.rand(3, 32, 32)))
    assert repaired.rgb.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 66_000.0, -1e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_or_beyond_measure_are_refused_by_name(value, dtype):
    module = nn.Linear(3, 2, dtype=dtype)
    weights = {name: weight.clone() for name, weight in module.state_dict().items()}
    weights["weight"][0, 1] = value
    with pytest.raises(InputError, match=r"weights of here hold NaN, .* beyond 65504, in 1 of 2; the first is weight"):
        load_weights(module, weights, "here")
    assert all(torch.isfinite(weight).all() for weight in module.parameters())
    weights["weight"][0, 1] = 65_000.0
    load_weights(module, weights, "here")


def test_a_folder_whose_finite_weights_overflow_is_refused(tmp_path):
    network = BuiltinNetwork(4, 4, (4, 4, 4))
    torch.nn.init.constant_(network.base_head.bias, 1e38)
    network.save(tmp_path, {})
    with pytest.raises(InputError, match=rf"{tmp_path} hold .*; the first is base_head\.bias"):
        load_enhancer(tmp_path)


@pytest.mark.parametrize(
    "index", ["{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1, "b": "c"}}', '{"weight_map": {"a": []}}']
)
def test_a_damaged_index_of_weights_is_named(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=r"model\.safetensors\.index\.json is damaged"):
        read_model(tmp_path, "model")
