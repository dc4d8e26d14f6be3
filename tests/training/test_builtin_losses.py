# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from harmonizer_ns.enhancers.builtin.network import Choice
from harmonizer_ns.metrics import psnr
from harmonizer_ns.training.builtin.losses import (
    choice_loss,
    confidence_loss,
    detail_ratio,
    log_error_ratio,
    preservation,
)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, 16, 16, generator=generator)
    return target, target + 0.1, torch.ones(2, 1, 16, 16, dtype=torch.bool)


def test_log_error_ratio_is_the_gain_in_psnr(images):
    target, render, mask = images
    ratio = log_error_ratio(target + 0.05, render, target, mask)
    gain = (psnr(target + 0.05, target) - psnr(render, target))[0].item()
    assert ratio[0].item() * -10 / math.log(10) == pytest.approx(gain, abs=0.05)
    assert log_error_ratio(render, render, target, mask).abs().max() == 0


def test_preservation_sees_only_good_pixels_and_punishes_losses_more_than_it_rewards_gains(images):
    target, render, good = images
    good = good.clone()
    good[..., 8:] = False
    worse_elsewhere = render.clone()
    worse_elsewhere[..., 8:] += 0.5
    assert preservation(worse_elsewhere, render, target, good).item() == pytest.approx(0, abs=1e-6)
    loss = preservation(target + 0.2, render, target, good)
    gain = preservation(target + 0.05, render, target, good)
    assert loss.item() == pytest.approx(math.log(4), rel=0.01)
    assert gain.item() == pytest.approx(-0.25 * math.log(4), rel=0.05)


def test_preservation_without_good_pixels_is_zero(images):
    target, render, good = images
    assert preservation(render + 1, render, target, torch.zeros_like(good)) == 0


def test_detail_ratio_ignores_brightness_and_counts_blur(images):
    target, _, _ = images
    noisy = target + 0.1 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    assert detail_ratio(target + 0.3, noisy, target) < 1e-3
    assert detail_ratio(noisy, noisy, target).item() == pytest.approx(1, abs=0.02)


def test_confidence_loss_is_least_at_the_true_probability(images):
    target, _, _ = images
    output = target.clone()
    output[..., :4] += 0.2  # three quarters of the pixels are right
    losses = {
        p: confidence_loss(torch.full((2, 1, 16, 16), math.log(p / (1 - p))), output, target).item()
        for p in (0.5, 0.7, 0.75, 0.8, 0.95)
    }
    assert min(losses, key=losses.__getitem__) == 0.75


@pytest.mark.parametrize("kind", ["candidates", "smoother versions"])
def test_choice_loss_is_least_for_the_weights_that_were_right(kind):
    """The loss falls as the score of what is true rises; invalid candidates are ignored."""
    render, target = torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 8, 8), 0.7)
    change = torch.stack([torch.full((1, 3, 8, 8), 0.2), torch.full((1, 3, 8, 8), -0.2)], dim=1)

    def loss(true: float, false: float) -> float:
        scores = torch.tensor([true, false]).view(1, 2, 1, 1).expand(1, 2, 8, 8)
        given, invalid = scores[:, :, None].expand(-1, -1, 2, -1, -1), torch.full((1, 2, 2, 8, 8), -torch.inf)
        none = torch.zeros_like(change)
        if kind == "candidates":
            choice = Choice(render, render[:, :1], given, change, none, scores[:, :0], none[:, :0])
        else:
            choice = Choice(render, render[:, :1], invalid, none, none, scores, change)
        return choice_loss(choice, render, target).item()

    assert loss(5, -5) < loss(0, 0) < loss(-5, 5)
