# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import to_float, to_uint8
from harmonizer_ns.synthesis.streams.base import Clip
from harmonizer_ns.synthesis.streams.labels import LabelConfig, find_labels, image_parts
from harmonizer_ns.synthesis.streams.regions import FACE_STRENGTHS, RegionSettings, make_regions, splat_blur

NAMES = {"background": 0, "skin": 1, "l_eye": 4, "r_eye": 5, "mouth": 10, "hair": 13}
FACE = LabelConfig("files", "faces")
HEIGHT, WIDTH = 72, 60


@pytest.fixture
def clip(tmp_path) -> Clip:
    """Three noisy frames with the label map of a simple face."""
    face = np.zeros((HEIGHT, WIDTH), np.uint8)
    face[4:24, 8:52] = NAMES["hair"]
    face[24:68, 12:48] = NAMES["skin"]
    face[30:38, 16:26], face[30:38, 34:44] = NAMES["l_eye"], NAMES["r_eye"]
    face[52:62, 20:40] = NAMES["mouth"]
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "labels.json").write_text(json.dumps(NAMES))
    for i in range(3):
        Image.fromarray(face).save(tmp_path / "faces" / f"{i}.png")
    frame = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    return Clip(tuple(tmp_path / f"{i}.png" for i in range(3)), to_float(to_uint8(frame.repeat(3, 1, 1, 1))))


@pytest.mark.parametrize("settings", [RegionSettings(range=(0.0, 0.0)), RegionSettings(FACE, {"skin": 0.0})])
def test_identity_settings_change_no_bit(clip, settings):
    for frame, made in zip(clip.frames, make_regions(clip, settings, 3), strict=True):
        assert torch.equal(made.image, frame)
        assert not made.mask.any()


@pytest.mark.parametrize("settings", [RegionSettings(), RegionSettings(FACE)])
def test_only_the_mask_is_changed_with_parameters_for_the_clip(clip, settings):
    made = make_regions(clip, settings, 5)
    for frame, file, one in zip(clip.frames, clip.files, made, strict=True):
        outside = (one.mask == 0).expand(3, -1, -1)
        assert outside.any()
        assert torch.equal(one.image[outside], frame[outside])
        assert torch.equal(one.target, frame)
        assert not torch.equal(one.image, frame)
        assert one.parameters == made[0].parameters
        assert one.source == str(file)
    again = make_regions(clip, settings, 5)
    assert all(torch.equal(a.image, b.image) for a, b in zip(made, again, strict=True))
    assert not torch.equal(make_regions(clip, settings, 6)[0].image, made[0].image)


def test_faces_are_degraded_most_where_one_looks(clip):
    maps = find_labels(clip, FACE, 0).maps[0]
    shares = {name: [] for name in NAMES}
    for seed in range(12):
        made = make_regions(replace(clip, files=clip.files[:1], frames=clip.frames[:1]), RegionSettings(FACE), seed)
        assert made[0].parameters["strengths"] == {name: FACE_STRENGTHS[name] for name in NAMES if name != "background"}
        for name, number in NAMES.items():
            shares[name].append((made[0].mask[0][maps == number] > 0).float().mean())
    mean = {name: float(torch.stack(share).mean()) for name, share in shares.items()}
    assert mean["mouth"] > mean["hair"] > mean["skin"] > mean["background"] == 0
    assert abs(mean["hair"] - FACE_STRENGTHS["hair"]) < 0.2


def test_strengths_are_named_by_name_or_number(clip):
    by_name = make_regions(clip, RegionSettings(FACE, {"mouth": 1.0}), 0)
    by_number = make_regions(clip, RegionSettings(FACE, {"10": 1.0}), 0)
    mouth = find_labels(clip, FACE, 0).maps[0] == NAMES["mouth"]
    assert torch.equal(by_name[0].image, by_number[0].image)
    assert torch.equal(by_name[0].mask[0] > 0, mouth)
    with pytest.raises(InputError, match=r"'nose'.*skin"):
        make_regions(clip, RegionSettings(FACE, {"nose": 1.0}), 0)
    with pytest.raises(InputError, match=r"'nose'.*labels\.json"):
        make_regions(clip, RegionSettings(strengths={"nose": 1.0}), 0)


def test_parts_follow_edges_and_the_moving_image():
    generator = torch.Generator().manual_seed(1)
    tones = torch.tensor([[0.1, 0.2, 0.7], [0.8, 0.7, 0.2], [0.2, 0.7, 0.3]]).repeat_interleave(40, 0).T
    wide = tones[:, None, :].expand(3, 60, -1) + 0.05 * torch.randn(3, 60, 120, generator=generator)
    frames = torch.stack([wide[:, :, 2 * i : 2 * i + 100] for i in range(3)]).clamp(0, 1)
    parts = image_parts(frames, 4)
    assert parts.min() >= 1
    for i in range(3):
        sides = [set(parts[i, :, a:b].unique().tolist()) for a, b in ((0, 36 - 2 * i), (44 - 2 * i, 76 - 2 * i))]
        assert not sides[0] & sides[1]
    assert (parts[1, :, :96] == parts[0, :, 2:98]).float().mean() > 0.9


def test_splat_blur_blurs_and_keeps_flat_colours():
    flat = torch.tensor([0.2, 0.5, 0.8])[:, None, None].expand(3, 48, 64).contiguous()
    torch.testing.assert_close(splat_blur(flat, 1.5, 3.0, 0), flat, atol=1e-2, rtol=0)
    noise = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
    assert splat_blur(noise, 1.5, 3.0, 0).std() < 0.5 * noise.std()


@pytest.fixture(scope="module")
def parser(tmp_path_factory) -> str:
    """A face parser of random weights."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(0)
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[4, 4, 8, 8],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
        id2label=dict(enumerate(["background", "skin", "mouth"])),
    )
    folder = tmp_path_factory.mktemp("parser")
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


def test_a_face_parser_names_the_regions(clip, parser):
    labels = find_labels(clip, LabelConfig("model", parser), 0)
    assert labels.maps.shape == (3, HEIGHT, WIDTH)
    assert labels.names == {"background": 0, "skin": 1, "mouth": 2}
    made = make_regions(clip, RegionSettings(LabelConfig("model", parser)), 0)
    assert made[0].parameters["strengths"] == {"skin": FACE_STRENGTHS["skin"], "mouth": FACE_STRENGTHS["mouth"]}


def test_missing_maps_names_and_models_are_named(clip, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"labels/0\.png"):
        make_regions(clip, RegionSettings(LabelConfig("files")), 0)
    with pytest.raises(InputError, match="nobody/faces-none"):
        make_regions(clip, RegionSettings(LabelConfig("model", "nobody/faces-none")), 0)
    (tmp_path / "faces" / "labels.json").write_text('{"skin": "one"}')
    with pytest.raises(InputError, match=r"labels\.json should map names to numbers"):
        make_regions(clip, RegionSettings(FACE), 0)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"strengths": {"1": 2.0}}, "strengths"),
        ({"range": (0.9, 0.1)}, "range"),
        ({"size": (0.0, 0.1)}, "size"),
        ({"stretch": 0.5}, "stretch"),
    ],
)
def test_bad_settings_are_refused(values, match):
    with pytest.raises(ValueError, match=match):
        RegionSettings(**values)
