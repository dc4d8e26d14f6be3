# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import to_float, to_uint8
from harmonizer_ns.synthesis.streams.base import Clip
from harmonizer_ns.synthesis.streams.isp import Isp, IspSettings, develop, make_isp
from harmonizer_ns.synthesis.streams.masks import feather
from harmonizer_ns.synthesis.streams.regions import RegionSettings, make_regions
from harmonizer_ns.synthesis.streams.table import STREAMS

NEUTRAL = IspSettings((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0))


@pytest.fixture
def clip() -> Clip:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 4, 6, generator=generator).expand(3, -1, -1, -1)
    frames = torch.nn.functional.interpolate(coarse, (40, 56), mode="nearest")
    return Clip(tuple(Path(f"{i}.png") for i in range(3)), to_float(to_uint8(frames)))


@pytest.mark.parametrize(("make", "settings"), [(make_isp, NEUTRAL), (make_regions, RegionSettings(range=(0.0, 0.0)))])
def test_identity_settings_change_nothing(clip, make, settings):
    for frame, made in zip(clip.frames, make(clip, settings, 3), strict=True):
        assert torch.equal((made.image * 255).round(), (frame * 255).round())


@pytest.mark.parametrize("kind", STREAMS)
def test_only_the_mask_is_changed_and_parameters_last_over_the_clip(clip, kind):
    stream = STREAMS[kind]
    made = stream.make(clip, stream.settings(), 5)
    for frame, one in zip(clip.frames, made, strict=True):
        outside = (one.mask == 0).expand(3, -1, -1)
        assert outside.any()
        assert torch.equal(one.image[outside], frame[outside])
        assert not torch.equal(one.image, frame)
        assert one.parameters == made[0].parameters
    again = stream.make(clip, stream.settings(), 5)
    assert all(torch.equal(a.image, b.image) for a, b in zip(made, again, strict=True))
    assert stream.make(clip, stream.settings(), 6)[0].parameters != made[0].parameters


def test_one_stop_doubles_linear_light():
    image = torch.tensor([0.0, 0.02, 0.3, 0.9]).view(1, 1, 1, 4).expand(1, 3, 4, 4)
    twice = develop(develop(image, Isp(exposure=-1.0)), Isp(exposure=1.0))
    torch.testing.assert_close(twice, image, atol=1e-5, rtol=0)
    half_light = develop(torch.full((1, 3, 2, 2), 0.735357), Isp(exposure=-1.0))  # sRGB of linear 0.5
    torch.testing.assert_close(half_light, torch.full((1, 3, 2, 2), 0.537099), atol=1e-4, rtol=0)


def test_the_tone_curve_rises():
    ramp = torch.linspace(0, 1, 256).view(1, 1, 1, -1).expand(1, 3, 2, -1)
    toned = develop(ramp, Isp(gamma=1.2, toe=0.08, shoulder=0.8))[0, 0, 0]
    assert (toned.diff() >= -1e-6).all()


def test_feathering_stays_inside():
    mask = torch.zeros(1, 1, 30, 30)
    mask[..., 8:22, 8:22] = 1
    soft = feather(mask, 2)
    assert (soft[mask == 0] == 0).all()
    assert soft.max() == 1
    assert ((soft > 0) & (soft < 1)).any()


def test_missing_and_empty_masks_are_named(clip, tmp_path):
    from PIL import Image

    inside = Clip(tuple(tmp_path / f"{i}.png" for i in range(3)), clip.frames)
    settings = IspSettings(masks="masks")
    with pytest.raises(InputError, match=r"masks/0\.png"):
        make_isp(inside, settings, 0)
    (tmp_path / "masks").mkdir()
    for i in range(3):
        Image.new("L", (56, 40)).save(tmp_path / "masks" / f"{i}.png")
    with pytest.raises(InputError, match="empty"):
        make_isp(inside, settings, 0)
