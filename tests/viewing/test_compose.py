# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from harmonizer_ns.viewing.gui import ViewSettings
from harmonizer_ns.viewing.picture import DIFFERENCE_GAIN, compose
from harmonizer_ns.viewing.session import limited

RENDER, ENHANCED = torch.zeros(1, 3, 4, 10), torch.ones(1, 3, 4, 10)
LARGE = torch.full((1, 3, 270, 480), 0.5)


def test_strength_blends():
    assert torch.equal(compose(RENDER, ENHANCED, ViewSettings(strength=1.0)), ENHANCED)
    assert torch.equal(compose(RENDER, ENHANCED, ViewSettings(strength=0.0)), RENDER)
    assert compose(RENDER, ENHANCED, ViewSettings(strength=0.25)).mean().item() == pytest.approx(0.25)


@pytest.mark.parametrize(("at", "column"), [(0.0, 0), (0.5, 5), (1.0, 9)])
def test_split_shows_the_render_on_the_left(at, column):
    shown = compose(RENDER, ENHANCED, ViewSettings(show="before | after", split_at=at))
    assert torch.equal(shown[..., :column], RENDER[..., :column])
    assert torch.equal(shown[..., column + 1 :], ENHANCED[..., column + 1 :])
    assert 0 < shown[..., column].mean() < 1
    assert RENDER.max() == 0


def divided(enhanced, at=0.5):
    return compose(LARGE, enhanced, ViewSettings(show="before | after", split_at=at))[0]


def test_the_divider_can_be_seen_on_every_ground_and_halves_are_labelled():
    for level in (0.0, 0.5, 1.0):
        shown = divided(torch.full_like(LARGE, level))
        column = shown[:, 40, 236:246].mean(0)
        assert column.max() - column.min() > 0.5
    left, right = (shown[:, :40, half].std() for half in (slice(120, 230), slice(250, 360)))
    assert min(left, right) > 0.05  # letters
    assert shown[:, 60:100, :200].std() == 0


def test_a_frame_that_is_not_there_yet_is_labelled_otherwise_and_shown_as_render():
    waiting, done = divided(None), divided(LARGE)
    assert torch.equal(waiting[:, 60:], done[:, 60:])
    assert not torch.equal(waiting[:, :40, 250:], done[:, :40, 250:])
    assert torch.equal(waiting[:, :40, :230], done[:, :40, :230])


def test_labels_make_way_where_there_is_no_room():
    assert torch.equal(divided(LARGE, at=0.02)[:, 60:, 40:], LARGE[0, :, 60:, 40:])
    assert divided(LARGE, at=0.02)[:, :40, 0:4].std() < 0.1


def test_the_difference_is_black_where_nothing_changed_and_bright_where_much_did():
    enhanced = LARGE.clone()
    enhanced[..., 200:, 240:] += 1 / DIFFERENCE_GAIN
    shown = compose(LARGE, enhanced, ViewSettings(show="difference"))[0]
    assert shown[:, 200:, :240].mean() < 0.02
    assert shown[:, 200:, 240:].mean() > 0.7
    assert torch.equal(compose(LARGE, None, ViewSettings(show="difference")), LARGE)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="4, 9"):
        compose(RENDER, ENHANCED[..., :9], ViewSettings())
    with pytest.raises(ValueError, match=r"strength should be from 0 to 1, got 1\.5"):
        ViewSettings(strength=1.5)


def test_limited_sizes_keep_their_aspect_and_never_grow():
    assert limited(1920, 1080, 480) == (480, 270)
    assert limited(100, 50, 480) == (100, 50)
    assert limited(50, 2000, 16) == (1, 16)
