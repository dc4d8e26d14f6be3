# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch
from plane_scene import PlaneRenderer, look_at

from harmonizer_ns.distill.gate import Gate, GateConfig
from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.types import Frames, cat_cameras, cat_frames
from harmonizer_ns.warp import warp_all

VIEW = look_at((0, 0, 0), (0, 0, 4))
PHOTO = PlaneRenderer().render(look_at((0.2, 0.1, 0), (0, 0, 4)))
RENDER = PlaneRenderer().render(VIEW)
GATE = Gate(GateConfig())


def repaired(rgb, confidence=1.0):
    return Repaired(rgb, torch.full_like(rgb[:, :1], confidence))


def weigh(rgb, photos=PHOTO, render=RENDER, confidence=1.0, gate=GATE):
    return gate.weight(render, repaired(rgb, confidence), Context(references=(photos,)))[0, 0]


def test_a_repair_that_photos_confirm_is_trusted():
    weight = weigh(RENDER.rgb)
    assert weight[4:-4, 4:-4].min() > 0.95


def test_a_repair_that_photos_contradict_is_not():
    wrong = RENDER.rgb.clone()
    wrong[..., 8:20, 16:32] = 1 - wrong[..., 8:20, 16:32]
    weight, right = weigh(wrong), weigh(RENDER.rgb)
    contradicted = ((wrong - RENDER.rgb).abs().mean(dim=1)[0] > 0.3) & torch.zeros(32, 48).index_fill(
        0, torch.arange(10, 18), 1
    ).bool()
    assert contradicted.sum() > 30
    assert weight[contradicted].max() < 0.1
    assert torch.allclose(weight[:, 36:], right[:, 36:])


def test_the_weight_falls_with_the_error():
    weights = [weigh((RENDER.rgb + error).clamp(0, 1)).mean().item() for error in (0.0, 0.05, 0.1, 0.2, 0.4)]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] > 0.9
    assert weights[-1] < 0.1


def test_nothing_rendered_nothing_trusted():
    alpha = RENDER.alpha.clone()
    alpha[..., :16, :] = 0
    alpha[..., 16:20, :] = 0.5
    weight = weigh(RENDER.rgb, render=Frames(RENDER.rgb, alpha, RENDER.depth, VIEW))
    assert weight[:16].max() == 0
    assert torch.allclose(weight[16:20, 6:-6], torch.tensor(0.5), atol=0.03)


def test_pixels_that_no_photo_sees_get_the_prior():
    aside = PlaneRenderer().render(look_at((40.0, 0, 0), (40, 0, 4)))
    gate = Gate(GateConfig(unseen_weight=0.25))
    for photos in (None, aside):
        assert torch.allclose(weigh(RENDER.rgb, photos, gate=gate), torch.tensor(0.25))
    no_context = gate.weight(RENDER, repaired(RENDER.rgb), Context())
    assert torch.allclose(no_context, torch.tensor(0.25))


def test_trust_that_lasts_forgives_what_photos_do_not_show_or_contradict():
    wrong, aside = 1 - RENDER.rgb, PlaneRenderer().render(look_at((40.0, 0, 0), (40, 0, 4)))
    strict, lenient = Gate(GateConfig(), fades=True), Gate(GateConfig(), fades=False)
    inner = (slice(8, 24), slice(8, 40))
    assert weigh(wrong, gate=strict)[inner].max() < 0.01
    assert torch.allclose(weigh(wrong, gate=lenient)[inner], torch.tensor(0.5), atol=0.02)
    assert torch.allclose(weigh(RENDER.rgb, gate=lenient)[inner], weigh(RENDER.rgb, gate=strict)[inner], atol=0.02)
    assert torch.allclose(weigh(wrong, aside, gate=strict), torch.tensor(0.2))
    assert torch.allclose(weigh(wrong, aside, gate=lenient), torch.tensor(1.0))
    own = Gate(GateConfig(unseen_weight=0.3, contradicted_weight=0.1), fades=False)
    assert torch.allclose(weigh(wrong, gate=own)[inner], torch.tensor(0.1), atol=0.02)
    assert torch.allclose(weigh(wrong, aside, gate=own), torch.tensor(0.3))


def test_lasting_trust_falls_with_the_detail_that_a_repair_loses_where_photos_confirm_the_render():
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(1, 3, 32, 48, generator=generator)
    render = Frames(texture, RENDER.alpha, RENDER.depth, VIEW)
    photo = Frames(texture, RENDER.alpha, RENDER.depth, VIEW)
    lenient, context = Gate(GateConfig(), fades=False), Context(references=(photo,))

    def kept(view, rgb):
        return lenient.kept_detail(view.rgb, rgb, warp_all(photo, view, GateConfig().depth_tolerance)).item()

    blurred = 0.5 + 0.5 * (texture - 0.5)  # half of the contrast is a quarter of the energy
    assert kept(render, blurred) == pytest.approx(0.25, abs=1e-4)
    assert kept(render, texture.roll(7, -1)) == pytest.approx(1, abs=0.05)
    sharper = (0.5 + 1.5 * (texture - 0.5)).clamp(0, 1)
    assert kept(render, sharper) == 1
    assert (lenient.weight(render, repaired(blurred), Context()) == 1).all()  # nobody can tell
    hidden = replace(render, rgb=torch.where(torch.arange(48) < 24, texture, texture.roll(11, -2)))
    half_blurred = torch.where(torch.arange(48) < 24, texture, torch.full_like(texture, 0.5))
    assert kept(hidden, half_blurred) > 0.9  # what photos did not confirm may go
    weights = lenient.weight(render, repaired(blurred), context)
    assert weights.max() <= 0.25 + 1e-4


def test_the_enhancers_confidence_counts():
    assert torch.allclose(weigh(RENDER.rgb, confidence=0.5), 0.5 * weigh(RENDER.rgb))


def test_one_pixel_of_misregistration_and_single_pixel_noise_are_forgiven():
    sharp = (torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    photo = Frames(sharp, RENDER.alpha, RENDER.depth, VIEW)
    inner = (slice(6, -6), slice(6, -6))
    assert weigh(sharp.roll(1, -1), photo)[inner].min() > 0.95
    assert weigh(sharp.roll(3, -1), photo)[inner].max() < 0.2
    assert weigh(sharp.roll(1, -1), photo, gate=Gate(GateConfig(shift=0)))[inner].max() < 0.2
    speck = RENDER.rgb.clone()
    speck[..., 16, 24] = 1 - speck[..., 16, 24]
    assert weigh(speck)[16, 24] > 0.8


def test_one_photo_that_agrees_is_enough():
    misled = Frames(1 - PHOTO.rgb, PHOTO.alpha, PHOTO.depth, PHOTO.cameras)
    both = weigh(RENDER.rgb, cat_frames([misled, PHOTO]))
    assert torch.allclose(both, weigh(RENDER.rgb), atol=0.05)
    assert weigh(RENDER.rgb, misled)[8:24, 8:40].mean() < 0.3


def test_every_view_has_its_own_photos():
    renders = cat_frames([RENDER, RENDER])
    pair = Repaired(torch.cat([RENDER.rgb, 1 - RENDER.rgb]), torch.ones(2, 1, 32, 48))
    weight = GATE.weight(renders, pair, Context(references=(PHOTO, None)))
    assert torch.allclose(weight[0, 0], weigh(RENDER.rgb))
    assert torch.allclose(weight[1], torch.tensor(GATE.config.unseen_weight))
    with pytest.raises(ValueError, match="1 entries for 2 frames"):
        GATE.weight(renders, pair, Context(references=(PHOTO,)))


def test_weights_stay_in_range_for_wild_inputs():
    generator = torch.Generator().manual_seed(1)
    depth = torch.rand(1, 1, 32, 48, generator=generator) * 8 * (torch.rand(1, 1, 32, 48, generator=generator) > 0.3)
    render = Frames(torch.rand(1, 3, 32, 48), torch.rand(1, 1, 32, 48), depth, VIEW)
    photos = Frames(
        torch.rand(3, 3, 32, 48), torch.ones(3, 1, 32, 48), depth.expand(3, -1, -1, -1), cat_cameras([VIEW] * 3)
    )
    weight = weigh(torch.rand(1, 3, 32, 48), photos, render)
    assert torch.isfinite(weight).all()
    assert 0 <= weight.min() <= weight.max() <= 1 + 1e-6


def test_settings_are_checked():
    with pytest.raises(ValueError, match="odd window"):
        GateConfig(window=4)
    with pytest.raises(ValueError, match="alpha_low < alpha_high"):
        GateConfig(alpha_low=0.9)
