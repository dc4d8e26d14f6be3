# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from harmonizer_ns.enhancers.lora import adapted_layers, matching_layers, merged
from harmonizer_ns.errors import InputError
from harmonizer_ns.training.config import PartConfig
from harmonizer_ns.training.models import make_trainable


class Part(nn.Module):
    """Two layers that are targets, and others whose names only look alike."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3, padding=1), "preconv": nn.Conv2d(4, 4, 1)})
        self.attention = nn.ModuleDict({"to_out": nn.ModuleList([nn.Linear(4, 5)])})
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = self.decoder["preconv"](self.decoder["conv"](self.conv(x)))
        return self.attention["to_out"][0](x.permute(0, 2, 3, 1))


TARGETS = ("conv", "to_out.0")


def trained(rank: int = 3) -> Part:
    """With adapters that do something."""
    part = Part()
    make_trainable(part, PartConfig("lora", rank, TARGETS), "name")
    with torch.no_grad():
        for _, layer in adapted_layers(part):
            layer.lora_B["name"].weight.normal_()
    return part


def test_targets_are_whole_names():
    assert matching_layers(Part(), TARGETS) == ["decoder.conv", "attention.to_out.0", "conv"]
    assert matching_layers(Part(), TARGETS, scope="decoder") == ["decoder.conv"]
    assert matching_layers(Part(), TARGETS, scope="dec") == []


def test_new_adapters_change_nothing_and_only_they_learn():
    x = torch.rand(2, 3, 5, 6)
    part = Part()
    before = part(x)
    make_trainable(part, PartConfig("lora", 2, TARGETS), "name", scope="decoder")
    assert torch.allclose(part(x), before, atol=1e-6)
    learning = {name for name, value in part.named_parameters() if value.requires_grad}
    assert learning == {"decoder.conv.lora_A.name.weight", "decoder.conv.lora_B.name.weight"}


@pytest.mark.parametrize("rank", [2, 3])
def test_an_adapter_adds_eight_over_rank_times_b_a(rank):
    part = trained(rank)
    linear, conv = part.attention["to_out"][0], part.decoder["conv"]
    x = torch.rand(7, 4)
    added = x @ linear.lora_A["name"].weight.T @ linear.lora_B["name"].weight.T * 8 / rank
    assert torch.allclose(linear(x), linear.base_layer(x) + added, atol=1e-5)
    image = torch.rand(1, 3, 5, 5)
    low = torch.nn.functional.conv2d(image, conv.lora_A["name"].weight, padding=1)
    added = torch.nn.functional.conv2d(low, conv.lora_B["name"].weight) * 8 / rank
    assert torch.allclose(conv(image), conv.base_layer(image) + added, atol=1e-5)


def test_merged_weights_do_what_adapters_did():
    part, plain, x = trained(), Part(), torch.rand(2, 3, 5, 6)
    before = {name: value.clone() for name, value in part.state_dict().items()}
    plain.load_state_dict(merged(part.state_dict()))
    assert torch.allclose(plain(x), part(x), atol=1e-5)
    assert not torch.allclose(plain(x), Part()(x), atol=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in part.state_dict().items())


def test_adapters_that_are_there_go_on_learning():
    part = trained(rank=3)
    before = part(torch.ones(1, 3, 4, 4))
    make_trainable(part, PartConfig("lora", 3, TARGETS), "name")
    assert torch.allclose(part(torch.ones(1, 3, 4, 4)), before, atol=1e-6)
    assert sum(value.requires_grad for value in part.parameters()) == 6
    with pytest.raises(InputError, match=r"rank \[3\], the configuration says 4"):
        make_trainable(part, PartConfig("lora", 4, TARGETS), "name")


def test_parts_are_frozen_or_learn_in_full():
    part = Part()
    make_trainable(part, PartConfig("frozen"), "name")
    assert not any(value.requires_grad for value in part.parameters())
    make_trainable(part, PartConfig("full"), "name")
    assert all(value.requires_grad for value in part.parameters())


def test_bad_adapters_are_named():
    with pytest.raises(InputError, match="no layer of Part matches the LoRA targets nothing"):
        make_trainable(Part(), PartConfig("lora", 2, ("nothing",)), "name")
    with pytest.raises(InputError, match="rank of at least 1"):
        PartConfig("lora", 0)
