# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from PIL import Image

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import to_float, to_uint8
from harmonizer_ns.synthesis.streams.base import Clip
from harmonizer_ns.synthesis.streams.isp import Isp, IspSettings, apply_isp, develop, make_isp
from harmonizer_ns.synthesis.streams.masks import MaskConfig

FILES = MaskConfig("files")
NEUTRAL = IspSettings((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0), masks=FILES)


@pytest.fixture
def clip(tmp_path) -> Clip:
    (tmp_path / "masks").mkdir()
    for i in range(3):
        mask = Image.new("L", (56, 40))
        mask.paste(255, (8 + 4 * i, 10, 28 + 4 * i, 30))
        mask.save(tmp_path / "masks" / f"{i}.png")
    frames = torch.rand(3, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    return Clip(tuple(tmp_path / f"{i}.png" for i in range(3)), to_float(to_uint8(frames)))


def test_identity_settings_change_no_bit(clip):
    for frame, made in zip(clip.frames, make_isp(clip, NEUTRAL, 3), strict=True):
        assert torch.equal(made.image, frame)


def test_an_isp_that_changes_nothing_is_the_identity():
    image = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(develop(image, Isp()), image, atol=1e-6, rtol=0)


def test_only_the_mask_is_changed_by_one_development_for_the_clip(clip):
    made = make_isp(clip, IspSettings(masks=FILES), 5)
    for frame, file, one in zip(clip.frames, clip.files, made, strict=True):
        outside = (one.mask == 0).expand(3, -1, -1)
        assert outside.any()
        assert torch.equal(one.image[outside], frame[outside])
        assert torch.equal(one.target, frame)
        assert not torch.equal(one.image, frame)
        assert one.parameters == made[0].parameters
        assert Path(one.source) == file


def test_inside_the_feathered_edge_it_is_the_developed_frame(clip):
    for frame, one in zip(clip.frames, make_isp(clip, IspSettings(masks=FILES), 5), strict=True):
        inside = (one.mask == 1).expand(3, -1, -1)
        assert inside.any()
        developed = develop(frame[None], Isp(**one.parameters))[0]
        torch.testing.assert_close(one.image[inside], developed[inside])


def test_the_same_seed_gives_the_same_bits(clip):
    settings = IspSettings(masks=FILES)
    made, again, other = (make_isp(clip, settings, seed) for seed in (5, 5, 6))
    assert all(torch.equal(a.image, b.image) and a.parameters == b.parameters for a, b in zip(made, again, strict=True))
    assert other[0].parameters != made[0].parameters


def test_one_stop_doubles_linear_light():
    image = torch.tensor([0.0, 0.02, 0.3, 0.9]).view(1, 1, 1, 4).expand(1, 3, 4, 4)
    twice = develop(develop(image, Isp(exposure=-1.0)), Isp(exposure=1.0))
    torch.testing.assert_close(twice, image, atol=1e-5, rtol=0)
    half_light = develop(torch.full((1, 3, 2, 2), 0.735357), Isp(exposure=-1.0))  # sRGB of linear 0.5
    torch.testing.assert_close(half_light, torch.full((1, 3, 2, 2), 0.537099), atol=1e-4, rtol=0)


def test_white_balance_moves_red_against_green_and_keeps_a_greys_luminance():
    grey = torch.full((1, 3, 1, 1), 0.5)
    decoded = ((develop(grey, Isp(red=0.5, blue=-0.3)) + 0.055) / 1.055)[0, :, 0, 0] ** 2.4
    torch.testing.assert_close((decoded[0] / decoded[1]).log2(), torch.tensor(0.5), atol=1e-4, rtol=0)
    before = ((grey[0, :, 0, 0] + 0.055) / 1.055) ** 2.4
    luminance = torch.tensor([0.2126, 0.7152, 0.0722])
    torch.testing.assert_close((decoded * luminance).sum(), (before * luminance).sum(), atol=1e-5, rtol=0)


def test_vignetting_darkens_corners_and_not_the_middle():
    dark = develop(torch.full((1, 3, 41, 41), 0.5), Isp(vignetting=0.3))[0, 0]
    torch.testing.assert_close(dark[20, 20], torch.tensor(0.5), atol=1e-5, rtol=0)
    assert dark[0, 0] < dark[0, 20] < dark[20, 20]


def test_the_tone_curve_rises():
    ramp = torch.linspace(0, 1, 256).view(1, 1, 1, -1).expand(1, 3, 2, -1)
    toned = develop(ramp, Isp(gamma=1.2, toe=0.08, shoulder=0.8))[0, 0, 0]
    assert (toned.diff() >= -1e-6).all()


def test_a_half_mask_blends_half():
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    isp = Isp(exposure=-1.0)
    blended = apply_isp(image, torch.full((1, 1, 8, 8), 0.5), isp)
    torch.testing.assert_close(blended, (image + develop(image, isp)) / 2)


def test_a_mask_thinner_than_its_edge_is_said(clip):
    with pytest.raises(InputError, match="smaller feather"):
        make_isp(clip, IspSettings(masks=FILES, feather=15), 0)


@pytest.mark.parametrize("values", [{"exposure": (1.0, 0.0)}, {"vignetting": (0.0, 2.0)}, {"feather": -1}])
def test_bad_settings_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        IspSettings(**values)
