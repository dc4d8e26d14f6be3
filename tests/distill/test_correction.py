# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from harmonizer_ns.distill.correction import correction_target, remaining_correction
from harmonizer_ns.types import Cameras, PseudoView


@pytest.fixture
def pictures():
    """Render and repair, far from 0 and 1; the repair leaves the right half alone."""
    generator = torch.Generator().manual_seed(0)
    render = 0.3 + 0.4 * torch.rand(3, 6, 8, generator=generator)
    change = 0.2 * torch.rand(3, 6, 8, generator=generator) - 0.1
    change[..., 4:] = 0
    return render, render + change


def test_nothing_changed_yet_so_all_is_left(pictures):
    render, repaired = pictures
    assert torch.allclose(remaining_correction(render, render, repaired), repaired)


@pytest.mark.parametrize("made", [0.25, 1.0, 1.5])
def test_what_is_made_is_not_asked_for_again_and_more_is_not_taken_back(pictures, made):
    render, repaired = pictures
    current = render + made * (repaired - render)
    expected = repaired if made <= 1 else current
    assert torch.allclose(remaining_correction(current, render, repaired), expected)


def test_other_changes_are_left_alone(pictures):
    """A change across the correction, and any change of pixels that were not repaired, stays."""
    render, repaired = pictures
    change = repaired - render
    across = 0.05 * torch.stack([change[1], -change[0], torch.zeros_like(change[0])]) / 0.1
    across[..., 4:] = 0.1
    target = remaining_correction(render + across, render, repaired)
    assert torch.allclose(target, repaired + across, atol=1e-6)


def test_targets_are_colours_without_gradient(pictures):
    render, repaired = pictures
    current = (render + 10).requires_grad_()
    target = remaining_correction(current, render, repaired)
    assert not target.requires_grad
    assert target.max() <= 1


def test_a_smaller_render_gets_a_smaller_target():
    """Trainers begin at low resolution."""
    camera = Cameras(torch.eye(4)[None], torch.eye(3)[None], 8, 6)
    left = (torch.arange(8) < 4).float().expand(1, 6, 8)
    view = PseudoView(torch.full((3, 6, 8), 0.75), torch.full((3, 6, 8), 0.5), left, camera, 0, 0)
    target, weight = correction_target(torch.full((3, 3, 4), 0.5), view)
    assert torch.allclose(target, torch.tensor(0.75))
    assert weight[0, :, 0].min() > 0.9
    assert weight[0, :, -1].max() < 0.1
