# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from harmonizer_ns.report import CameraMap, Plot
from harmonizer_ns.report.drawings import curves, seen_from_above


def test_points_lie_where_the_ticks_say():
    drawing = curves(Plot("", "", "", {"a": ((0, 10.0), (1000, 30.0), (500, float("nan")), (250, 20.0))}))
    (low, high), (middle,) = drawing.pieces["a"]
    x = {text: at for at, text in drawing.x_ticks}
    y = {text: at for at, text in drawing.y_ticks}
    assert low == pytest.approx((x["0"], y["10"]), abs=0.1)
    assert high == pytest.approx((x["1,000"], y["30"]), abs=0.1)
    assert middle[1] == pytest.approx(y["20"], abs=0.1)
    assert y["30"] < y["10"]  # upwards


@pytest.mark.parametrize("values", [(1.0, 1.0), (-2e-7, 3e-7), (0.0, 0.0), (1e9, 1e9 + 1), (-5.0, 1e6)])
def test_there_are_a_few_ticks_whatever_the_range(values):
    drawing = curves(Plot("", "", "", {"a": tuple(enumerate(values))}))
    assert 1 <= len(drawing.y_ticks) <= 7
    assert all(drawing.top <= at <= drawing.bottom for at, _ in drawing.y_ticks)


def test_the_map_keeps_distances_in_the_plane_of_the_cameras():
    torch.manual_seed(0)
    flat = torch.rand(8, 3) * torch.tensor([4.0, 2.0, 0.0])
    turn, _ = torch.linalg.qr(torch.rand(3, 3))
    turned = flat @ turn.T + torch.tensor([1.0, 2.0, 3.0])
    drawing = seen_from_above(CameraMap({"photos": turned[:5], "path": turned[5:]}))
    drawn = torch.tensor(drawing.pieces["photos"][0] + drawing.pieces["path"][0])
    ratio = torch.pdist(drawn) / torch.pdist(flat)
    assert ratio == pytest.approx(float(ratio.mean()), rel=0.02)
    assert (drawn[:, 0].max() - drawn[:, 0].min()) > (drawn[:, 1].max() - drawn[:, 1].min())
