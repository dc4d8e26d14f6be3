# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.nn import functional as F

from harmonizer_ns.evaluation.networks import Networks
from harmonizer_ns.evaluation.video import Clips, VideoMeasures
from harmonizer_ns.flow import Flow, dis_flow
from harmonizer_ns.views import JudgedView, Place


def texture(width=96):
    rough = torch.rand(1, 3, 12, width // 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(rough, (48, width), mode="bicubic").clamp(0, 1)[0]


def sliding(count, step=3):
    """A picture that slides by whole pixels."""
    wide = texture(64 + step * count)
    return [wide[..., step * i : step * i + 64] for i in range(count)]


def clip(videos, truths, name="a"):
    return [
        JudgedView(str(i), "", {role: video[i] for role, video in videos.items()}, truth, place=Place(name, i))
        for i, truth in enumerate(truths)
    ]


def scores(*views):
    networks = Networks()
    clips = Clips(networks)
    for view in views:
        clips.add(view)
    return clips.scores(), networks


def test_dis_finds_a_slide_where_both_pictures_show_it():
    first, second = (image[None] for image in sliding(2))
    flow = dis_flow(second, first)
    inner = flow.offset[..., 8:-8, 8:-8]
    assert inner[:, 0].median().item() == pytest.approx(3, abs=0.2)
    assert inner[:, 1].abs().median() < 0.2
    assert flow.valid[..., 8:-8, 8:-8].float().mean() > 0.9
    assert not flow.valid[..., -1].any()  # what slid in was not there before
    with pytest.raises(ValueError, match="one shape"):
        dis_flow(first, second[..., 1:])


def test_flicker_is_told_from_motion_and_the_truth_is_the_floor():
    truths = sliding(4)
    flickering = [truth + 0.1 * (i % 2) for i, truth in enumerate(truths)]
    found, networks = scores(*clip({"plain": truths, "enhanced": flickering}, truths))
    assert found["truth"]["warp_error"] == found["plain"]["warp_error"] < 0.02
    assert found["enhanced"]["warp_error"] == pytest.approx(0.1, abs=0.01)
    assert found["truth"]["flicker"] is None
    assert "DIS" in networks.recipes["warp_error"]
    assert "no two successive frames stand still" in networks.missing["flicker"]


def test_still_frames_flicker_by_their_mean_difference():
    truth = texture()
    noise = [truth + 0.05 * i for i in range(3)]
    found, _ = scores(*clip({"plain": noise}, [truth] * 3))
    assert found["plain"]["flicker"] == pytest.approx(0.05, rel=1e-3)
    assert found["truth"]["flicker"] == 0


def test_frames_are_compared_within_their_clip_only():
    truth = texture()
    views = [*clip({"plain": [truth] * 2}, [truth] * 2, "a"), *clip({"plain": [1 - truth] * 2}, [truth] * 2, "b")]
    found, _ = scores(*views)
    assert found["plain"]["flicker"] == 0
    gap = [views[0], JudgedView("5", "", {"plain": 1 - truth}, truth, place=Place("a", 5))]
    assert scores(*gap)[0]["plain"]["flicker"] is None
    single = JudgedView("0", "", {"plain": truth}, truth)
    assert scores(single, single)[0] == {}


def test_only_pixels_that_both_frames_show_count():
    valid = torch.zeros(1, 1, 48, 96, dtype=torch.bool)
    valid[..., :40] = True
    measures, image = VideoMeasures(Networks()), texture()
    changed = image.clone()
    changed[..., 40:] = 0
    measures.add({"plain": image}, None, still=False)
    measures.add({"plain": changed}, Flow(torch.zeros(1, 2, 48, 96), valid), still=False)
    assert measures.scores()["plain"]["warp_error"] == pytest.approx(0, abs=1e-6)


def test_consistency_is_vbenchs_mean_of_similarities_to_the_first_and_to_the_last_frame(monkeypatch):
    vectors = F.normalize(torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.2]]), dim=1)
    networks, shown = Networks(), iter(vectors)
    monkeypatch.setattr(networks, "subject", lambda: lambda image: next(shown)[None])
    measures = VideoMeasures(networks)
    for _ in vectors:
        measures.add({"plain": texture()}, None, still=False)
    second = (0.8 + 0.8) / 2
    third = (max(0, float(vectors[2] @ vectors[1])) + max(0, float(vectors[2] @ vectors[0]))) / 2
    found = measures.scores()["plain"]
    assert found["subject_consistency"] == pytest.approx((second + third) / 2)
    assert found["background_consistency"] is None
    assert found["fvd"] is None
    assert {"fvd", "background_consistency"} <= networks.missing.keys()
