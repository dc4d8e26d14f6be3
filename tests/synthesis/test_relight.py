# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_difix import CONFIG, write_text_encoder
from torch.nn import functional as F
from toy import arc_cameras, look_at, write_capture

from harmonizer_ns.captures.capture import Capture, load_capture
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import to_uint8
from harmonizer_ns.synthesis.streams.base import Made
from harmonizer_ns.synthesis.streams.masks import MaskConfig
from harmonizer_ns.synthesis.streams.relight import Lamp, RelightSettings, brighten, draw_lamp, lamp_gain, make_relight
from harmonizer_ns.synthesis.streams.relight_diffusion import DiffusionSettings, diffusion_gain
from harmonizer_ns.synthesis.streams.runs import RunSettings
from harmonizer_ns.synthesis.streams.shading import (
    ambient,
    depth_normals,
    directional,
    estimate_light,
    gain,
    harmonics,
    irradiance,
    to_linear,
    to_srgb,
)
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.warp import backproject

RUN = RunSettings(clips=1, photos=5, steps=12, gaussians=800)
SETTINGS = RelightSettings(run=RUN, masks=MaskConfig("files"), feather=1)


def sphere(count: int = 20_000) -> torch.Tensor:
    return F.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    """A capture with masks: a square in the middle of every photo."""
    folder = write_capture(tmp_path_factory.mktemp("masked") / "capture")
    (folder / "masks").mkdir()
    mask = Image.new("L", (64, 48))
    mask.paste(255, (22, 14, 44, 36))
    for i in range(10):
        mask.save(folder / "masks" / f"{i:03d}.png")
    return load_capture(folder)


@pytest.fixture(scope="module")
def made(masked: Capture) -> list[Made]:
    return list(make_relight(masked, SETTINGS, 3))


def test_harmonics_are_orthonormal():
    basis = harmonics(sphere(50_000))
    gram = basis.T @ basis * 4 * math.pi / len(basis)
    torch.testing.assert_close(gram, torch.eye(9), atol=0.06, rtol=0)


def test_irradiance_is_the_light_over_the_hemisphere():
    """Against the integral of the clamped cosine over a smooth light, which order 2 holds to 1% (the paper, 3.2)."""
    directions, normals = sphere(40_000), sphere(20)
    radiance = (1 + directions[:, 1] + 0.5 * directions[:, 0] * directions[:, 2])[:, None].expand(-1, 3)
    light = harmonics(directions).T @ radiance * 4 * math.pi / len(directions)
    cosine = (normals @ directions.T).clamp(min=0)
    expected = cosine @ radiance * 4 * math.pi / len(directions)
    torch.testing.assert_close(irradiance(light, normals), expected, atol=0.1, rtol=0.02)


def test_a_lamp_lights_what_faces_it():
    toward = F.normalize(torch.tensor([0.3, -0.8, 0.5]), dim=0)
    color = torch.tensor([1.0, 0.5, 0.25])
    light = directional(toward, color)
    assert irradiance(light, toward)[0].item() == pytest.approx(1.0, abs=0.1)  # order 2 of a clamped cosine: 0.94
    assert irradiance(light, -toward).abs().max() < 0.1
    torch.testing.assert_close(irradiance(ambient(color), sphere(5)), color.expand(5, 3), atol=1e-5, rtol=0)


def test_the_light_of_a_white_surface_is_found():
    normals = sphere(4000)
    light = directional(torch.tensor([0.0, -1.0, 0.0]), torch.ones(3)) + ambient(torch.full((3,), 0.5))
    found = estimate_light(irradiance(light, normals), normals, ridge=0.0)
    torch.testing.assert_close(found, light, atol=1e-4, rtol=0)
    damped = estimate_light(irradiance(light, normals), normals, ridge=10.0)
    assert damped[1:].norm() < 0.3 * light[1:].norm()


@pytest.mark.parametrize("tilt", [(0.3, -0.5, -1.0), (0.0, 0.0, -1.0), (-0.8, 0.1, -1.0)])
def test_normals_of_a_plane_are_exact(tilt):
    camera = arc_cameras(3, 80, 60)[2]
    normal = F.normalize(torch.tensor(tilt), dim=0)  # in the camera's axes
    rays = backproject(torch.ones(1, 1, 60, 80), replace(camera, camera_to_world=torch.eye(4)[None]))
    depth = (-3 / (rays @ normal))[:, None]
    depth[..., 30:40, 40:50] = 0
    found = depth_normals(depth, camera)
    known = depth[0, 0] > 0
    expected = camera.camera_to_world[0, :3, :3] @ normal
    assert (found[0][known] @ expected).min() > 0.9999
    assert torch.isfinite(found).all()


def test_normals_do_not_lean_over_edges():
    camera = Cameras(torch.eye(4)[None], torch.tensor([[[80.0, 0, 40], [0, 80, 30], [0, 0, 1]]]), 80, 60)
    depth = torch.full((1, 1, 60, 80), 2.0)
    depth[..., 40:] = 4.0
    assert (-depth_normals(depth, camera)[..., 2]).min() > 0.999


def test_equal_lights_change_nothing_and_no_light_more_than_the_bound():
    normals = sphere(500)
    old = ambient(torch.full((3,), 0.4)) + directional(normals[0], torch.full((3,), 0.6))
    assert (gain(old, old, normals, 4.0) == 1).all()
    strong = gain(ambient(torch.full((3,), 50.0)), old, normals, 4.0)
    assert strong.max() == 4
    assert gain(ambient(torch.zeros(3)), old, normals, 4.0).min() >= 0.25


def test_srgb_round_trip():
    ramp = torch.linspace(0, 1, 256)
    assert torch.equal(to_uint8(to_srgb(to_linear(ramp))), to_uint8(ramp))


def test_a_lamp_from_the_right_brightens_what_faces_right():
    """A ball: its right side gains over its left, whatever the camera; and the light stays put as the camera moves."""
    cameras = Cameras(
        torch.stack([look_at(torch.tensor([x, 0.0, -4.0]), torch.zeros(3)) for x in (-0.2, 0.3)]),
        torch.tensor([[80.0, 0, 40], [0, 80, 30], [0, 0, 1]]).expand(2, 3, 3),
        80,
        60,
    )
    depth, normals = ball(cameras)
    frames = torch.full((2, 3, 60, 80), 0.5)
    masks = (depth < 4).float()
    lamp = Lamp(1.0, 0.1, 0.0, 0.0, 0.0, 90.0)
    gains, _ = lamp_gain(frames, Frames(frames, torch.ones_like(depth), depth, cameras), masks, lamp, 4.0)
    images = brighten(frames, gains, masks)
    right, left = (normals[..., 0] > 0.7) & (depth[:, 0] < 3.7), (normals[..., 0] < -0.7) & (depth[:, 0] < 3.7)
    for image, bright, dark in zip(images, right, left, strict=True):
        assert image[:, bright].mean() > image[:, dark].mean() + 0.1
    assert torch.equal(images[(masks == 0).expand_as(images)], frames[(masks == 0).expand_as(images)])


def ball(cameras: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth and world normals of a unit ball at the origin before a far wall."""
    rays = backproject(torch.ones(len(cameras), 1, cameras.height, cameras.width), cameras)
    origin = cameras.centers[:, None, None]
    rays = rays - origin
    a, b, c = rays.square().sum(-1), (rays * origin).sum(-1), origin.square().sum(-1) - 1
    root = (b.square() - a * c).clamp(min=0).sqrt()
    z = torch.where(b.square() > a * c, (-b - root) / a, 8.0)
    return z[:, None], F.normalize(origin + rays * z[..., None], dim=-1)


def test_zero_strength_changes_nothing(masked):
    for one in make_relight(masked, replace(SETTINGS, strength=(0.0, 0.0)), 3):
        assert torch.equal(to_uint8(one.image), to_uint8(one.target))


def test_only_the_mask_is_changed_and_the_light_lasts_over_the_clip(made):
    assert len(made) == RUN.frames
    assert [Path(one.source).stem for one in made] == sorted(Path(one.source).stem for one in made)
    for one in made:
        outside = (one.mask == 0).expand(3, -1, -1)
        assert torch.equal(one.image[outside], one.target[outside])
        assert not torch.equal(to_uint8(one.image), to_uint8(one.target))
        assert one.parameters == made[0].parameters
        assert one.references is not None
        assert Path(one.source).stem not in one.references.names


def test_equal_seeds_give_equal_pairs(masked, made):
    again = list(make_relight(masked, SETTINGS, 3))
    assert all(torch.equal(a.image, b.image) for a, b in zip(made, again, strict=True))
    assert draw_lamp(SETTINGS, 3) != draw_lamp(SETTINGS, 4)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Stable Diffusion pipeline, with a file in the layout of IC-Light's beside it."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("diffusion") / "pipeline"
    unet = UNet2DConditionModel(**CONFIG["unet"])
    unet.save_pretrained(folder / "unet")
    AutoencoderKL(**CONFIG["vae"]).save_pretrained(folder / "vae")
    write_text_encoder(folder)
    DDIMScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    parts = {"scheduler": "DDIMScheduler", "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    index = {name: ["diffusers", kind] for name, kind in parts.items()}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    nothing = {
        "_class_name": "StableDiffusionPipeline",
        "safety_checker": [None, None],
        "feature_extractor": [None] * 2,
    }
    (folder / "model_index.json").write_text(json.dumps({**nothing, **index}))
    offsets = {name: 0.01 * torch.randn_like(value) for name, value in unet.state_dict().items()}
    offsets["conv_in.weight"] = 0.1 * torch.randn(16, 8, 3, 3)
    save_file(offsets, folder / "ic_light.safetensors")
    return folder


def test_a_diffusion_model_relights(masked, pipeline):
    model = DiffusionSettings(str(pipeline), prompts=("red light", "blue light"), steps=2)
    made = list(make_relight(masked, replace(SETTINGS, diffusion=model), 3))
    assert made[0].parameters["prompt"] in model.prompts
    for one in made:
        outside = (one.mask == 0).expand(3, -1, -1)
        assert torch.equal(one.image[outside], one.target[outside])
        assert (one.image - one.target).abs().max() > 0.05
        assert one.parameters == made[0].parameters


def test_ic_light_sees_the_foreground(masked, pipeline):
    frames = masked.frames(0).rgb
    model = DiffusionSettings(str(pipeline), steps=2)
    light = replace(model, ic_light=str(pipeline / "ic_light.safetensors"))
    whole, none = torch.ones_like(frames[:, :1]), torch.zeros_like(frames[:, :1])
    assert torch.equal(*(diffusion_gain(frames, mask, model, 4.0, 0)[0] for mask in (whole, none)))
    lit, unlit, again = (diffusion_gain(frames, mask, light, 4.0, 0)[0] for mask in (whole, none, whole))
    assert not torch.equal(lit, unlit)
    assert torch.equal(lit, again)
    assert lit.min() >= 0.25
    assert lit.max() <= 4


def test_a_model_that_cannot_be_loaded_is_named(masked, tmp_path, pipeline):
    (tmp_path / "model").mkdir()
    frames = masked.frames(0).rgb
    with pytest.raises(InputError, match="model for relighting"):
        diffusion_gain(frames, frames[:, :1], DiffusionSettings(str(tmp_path / "model")), 4.0, 0)
    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "bad.safetensors")
    bad = DiffusionSettings(str(pipeline), str(tmp_path / "bad.safetensors"))
    with pytest.raises(InputError, match="does not fit"):
        diffusion_gain(frames, frames[:, :1], bad, 4.0, 0)
    with pytest.raises(ValueError, match="ic_light needs model"):
        DiffusionSettings(ic_light="lllyasviel/ic-light")


def test_what_cannot_be_relit_is_told(masked):
    few = masked.part(range(3))
    with pytest.raises(InputError, match="3 photos, a clip needs 5"):
        list(make_relight(few, SETTINGS, 0))
    with pytest.raises(InputError, match="seed points"):
        list(make_relight(replace(masked, points=torch.zeros(0, 3), colors=torch.zeros(0, 3)), SETTINGS, 0))
    with pytest.raises(InputError, match="nowhere"):
        list(make_relight(masked, replace(SETTINGS, masks=MaskConfig("files", "nowhere")), 0))
    with pytest.raises(ValueError, match="strength"):
        RelightSettings(strength=(0.0, 2.0))
