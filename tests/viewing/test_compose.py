# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from harmonizer_ns.viewing.gui import ViewSettings
from harmonizer_ns.viewing.session import compose, limited

RENDER, ENHANCED = torch.zeros(1, 3, 4, 10), torch.ones(1, 3, 4, 10)


def test_strength_blends():
    assert torch.equal(compose(RENDER, ENHANCED, ViewSettings(strength=1.0)), ENHANCED)
    assert torch.equal(compose(RENDER, ENHANCED, ViewSettings(strength=0.0)), RENDER)
    assert compose(RENDER, ENHANCED, ViewSettings(strength=0.25)).mean().item() == pytest.approx(0.25)


@pytest.mark.parametrize(("at", "column"), [(0.0, 0), (0.5, 5), (1.0, 9)])
def test_split_shows_the_render_on_the_left(at, column):
    shown = compose(RENDER, ENHANCED, ViewSettings(split=True, split_at=at))
    assert torch.equal(shown[..., :column], RENDER[..., :column])
    assert torch.equal(shown[..., column + 1 :], ENHANCED[..., column + 1 :])
    assert 0 < shown[..., column].mean() < 1
    assert RENDER.max() == 0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="4, 9"):
        compose(RENDER, ENHANCED[..., :9], ViewSettings())
    with pytest.raises(ValueError, match=r"strength should be from 0 to 1, got 1\.5"):
        ViewSettings(strength=1.5)


def test_limited_sizes_keep_their_aspect_and_never_grow():
    assert limited(1920, 1080, 480) == (480, 270)
    assert limited(100, 50, 480) == (100, 50)
    assert limited(50, 2000, 16) == (1, 16)
