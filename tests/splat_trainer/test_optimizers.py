# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from gsplat_trainer.config import DefaultConfig
from gsplat_trainer.optimizers import VisibleAdam, make_optimizers
from harmonizer_ns.splats.model import parameters, seed_splats


def test_visible_adam_is_adam_where_it_looks():
    start = torch.rand(6, 3)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    masked, plain = VisibleAdam([ours], lr=0.1, eps=1e-15), torch.optim.Adam([theirs], lr=0.1, eps=1e-15)
    masked.visible = torch.tensor([True, False, True, False, True, True])
    for seed in range(3):
        gradient = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        masked.step()
        plain.step()
    torch.testing.assert_close(ours[masked.visible], theirs[masked.visible])
    assert torch.equal(ours[~masked.visible], start[~masked.visible])


@pytest.mark.parametrize("flag", ["visible_adam", "sparse_grad"])
def test_two_flags_ask_for_the_same_optimizer(flag):
    splats = parameters(seed_splats(torch.rand(5, 3), torch.rand(5, 3), 1), torch.device("cpu"))
    found = make_optimizers(splats, DefaultConfig(**{flag: True}), 1.0, 1)
    plain = make_optimizers(splats, DefaultConfig(), 1.0, 1)
    assert all(isinstance(optimizer, VisibleAdam) for optimizer in found.values())
    assert not any(isinstance(optimizer, VisibleAdam) for optimizer in plain.values())
    for name, optimizer in found.items():
        assert optimizer.param_groups[0]["lr"] == plain[name].param_groups[0]["lr"]
