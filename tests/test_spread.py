# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from harmonizer_ns.spread import evenly_spread, thin


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(("count", "most"), [(3, 5), (20, 5), (21, 16), (7, 0), (7, 1), (2, 2)])
def test_distinct_items_over_the_whole_range(count, most, ends):
    picked = evenly_spread(range(count), most, ends)
    assert len(set(picked)) == len(picked) == min(count, most)
    assert picked == sorted(picked)
    if 0 < most < count:
        gaps = torch.tensor([-0.5, *picked, count - 0.5]).diff()
        assert gaps.max() <= count / most + (count / most if ends else 1)


def test_ends_are_kept_where_they_are_wanted():
    assert evenly_spread("abcdefghijk", 3, ends=True) == ["a", "f", "k"]
    assert evenly_spread("abcdefghijk", 3) == ["b", "f", "j"]
    assert evenly_spread("abcdefghijk", 1, ends=True) == ["f"]


@pytest.mark.parametrize(("count", "left"), [(0, 0), (4, 4), (5, 3), (9, 3)])
def test_thinned_points_are_no_more_than_asked_for(count, left):
    points = torch.rand(count, 3)
    assert len(thin(points, 4)) == left
    assert count == 0 or torch.equal(thin(points, 4)[0], points[0])
