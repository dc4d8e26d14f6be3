# SPDX-License-Identifier: Apache-2.0
"""Enhancers that know the truth: are their repairs as good and as bad as stated?"""

from dataclasses import replace

import pytest
import torch
from toy import arc_cameras, capture_of

from harmonizer_ns.enhancers.base import Context, Enhancer
from harmonizer_ns.evaluation.oracles import FLAWS, TINT, TruthEnhancer, displaced, smooth_field
from harmonizer_ns.images import to_float
from harmonizer_ns.poses import interpolate_pose
from harmonizer_ns.types import Cameras, Frames

HEIGHT, WIDTH = 180, 240


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ramp():
    """A picture that tells in red and green where each pixel was, far from black and white; blue is constant."""
    x = torch.linspace(0.25, 0.75, WIDTH).expand(HEIGHT, WIDTH)
    y = torch.linspace(0.25, 0.75, HEIGHT)[:, None].expand(HEIGHT, WIDTH)
    return torch.stack([x, y, torch.full_like(x, 0.5)])


@pytest.mark.parametrize("rms", [0.8, 1.6])
@pytest.mark.parametrize("seed", [0, 1])
def test_misaligned_repairs_are_moved_as_far_as_stated(rms, seed):
    repair = FLAWS[f"misaligned by {rms} px"](ramp(), generator(seed))
    gains = []
    torch.manual_seed(0)
    field = smooth_field(2, HEIGHT, WIDTH, drawn := generator(seed))
    field *= rms / field.square().mean().sqrt()
    gains = 1 + 0.03 * torch.randn(3, 1, 1, generator=drawn)
    places = repair / gains
    inner = (slice(8, -8), slice(8, -8))
    moved = [(places[0] - ramp()[0])[inner] * (WIDTH - 1) / 0.5, (places[1] - ramp()[1])[inner] * (HEIGHT - 1) / 0.5]
    measured = torch.stack(moved)
    torch.testing.assert_close(measured, field[:, 8:-8, 8:-8], atol=0.01, rtol=0)
    assert measured.square().mean().sqrt().item() == pytest.approx(rms, rel=0.1)  # of the whole: exactly


def test_gains_of_misaligned_repairs_spread_as_stated():
    grey = torch.full((3, 8, 8), 0.5)
    gains = torch.stack([FLAWS["misaligned by 0.8 px"](grey, generator(seed)).mean(dim=(1, 2)) for seed in range(200)])
    assert (gains / 0.5).std().item() == pytest.approx(0.03, rel=0.1)
    assert (gains / 0.5).mean().item() == pytest.approx(1, abs=0.005)


def test_displacements_are_smooth():
    field = smooth_field(2, HEIGHT, WIDTH, generator())
    slope = field.diff(dim=-1).square().mean().sqrt() / field.square().mean().sqrt()
    assert slope < 2.5 / 24  # turns from one grid point to the next, not from pixel to pixel
    assert smooth_field(1, 5, 7, generator()).shape == (1, 5, 7)


def test_a_shift_by_whole_pixels_is_exact():
    photo = torch.rand(3, 20, 30, generator=generator())
    field = torch.stack([torch.full((20, 30), 2.0), torch.full((20, 30), -1.0)])
    moved = displaced(photo, field)
    torch.testing.assert_close(moved[:, 1:, :-2], photo[:, :-1, 2:], atol=1e-5, rtol=0)


def test_soft_repairs_are_blurred_as_stated():
    point = torch.zeros(3, 41, 41)
    point[:, 20, 20] = 1.0
    blurred = FLAWS["soft"](point, generator())
    offsets = torch.arange(41).float() - 20
    for axis in (1, 2):
        profile = blurred[0].sum(dim=axis - 1)
        assert (profile * offsets.square()).sum().sqrt().item() == pytest.approx(1.5, rel=0.01)
    assert blurred.sum().item() == pytest.approx(3, rel=1e-4)


def test_invented_repairs_replace_a_tenth_by_what_is_elsewhere():
    photo = torch.rand(3, HEIGHT, WIDTH, generator=generator())
    repairs = [FLAWS["invented"](photo, generator(seed)) for seed in (0, 1)]
    for repair in repairs:
        changed = (repair != photo).any(dim=0)
        assert changed.float().mean().item() == pytest.approx(0.1, abs=0.001)
        known = {tuple(pixel) for pixel in photo.flatten(1).T.tolist()}
        assert all(tuple(pixel) in known for pixel in repair[:, changed].T[:50].tolist())
    both = [(repair != photo).any(dim=0) for repair in repairs]
    assert (both[0] & both[1]).float().mean() < 0.05


def test_tinted_repairs_are_shifted_alike():
    photo = ramp()
    shift = FLAWS["tinted"](photo, generator(1)) - photo
    torch.testing.assert_close(shift.mean(dim=(1, 2)), torch.tensor(TINT))
    assert max(map(abs, TINT)) == 0.08


@pytest.fixture(scope="module")
def capture():
    cameras = arc_cameras(6, 48, 36)
    frames = [
        Frames(torch.rand(1, 3, 36, 48, generator=generator(i)), torch.ones(1, 1, 36, 48), torch.zeros(1, 1, 36, 48), c)
        for i, c in enumerate(cameras)
    ]
    made = capture_of("arc", tuple(f"{i}.png" for i in range(6)), frames, torch.zeros(0, 3))
    return replace(made, train=(0, 2, 4), test=(1, 3, 5))


def render(camera: Cameras) -> Frames:
    size = camera.height, camera.width
    return Frames(torch.full((1, 3, *size), 0.5), torch.ones(1, 1, *size), torch.ones(1, 1, *size), camera)


@pytest.mark.parametrize("flaw", FLAWS)
def test_the_truth_is_looked_up_by_the_camera(capture, flaw):
    enhancer = TruthEnhancer(capture, FLAWS[flaw])
    assert isinstance(enhancer, Enhancer)
    frames = render(capture.cameras[3])
    repaired = enhancer.enhance(frames, Context()).checked(frames)
    torch.testing.assert_close(repaired.rgb[0], enhancer.repair(3))
    assert (repaired.confidence == 1).all()
    assert torch.equal(enhancer.enhance(frames).rgb, repaired.rgb)  # the same in each round
    if flaw == "perfect":
        assert torch.equal(repaired.rgb[0], to_float(capture.photo(3)))


def test_the_truth_fits_renders_of_half_the_size(capture):
    frames = render(capture.cameras[1].resized(24, 18))
    assert TruthEnhancer(capture, FLAWS["perfect"]).enhance(frames).checked(frames).confidence.min() == 1


def test_where_no_held_out_photo_was_taken_nothing_is_repaired(capture):
    enhancer = TruthEnhancer(capture, FLAWS["perfect"])
    start, target = (capture.cameras[i].camera_to_world[0] for i in (0, 1))
    way = replace(capture.cameras[0], camera_to_world=interpolate_pose(start, target, 0.98)[None])
    for camera in (capture.cameras[2], way):
        frames = render(camera)
        repaired = enhancer.enhance(frames)
        assert torch.equal(repaired.rgb, frames.rgb)
        assert (repaired.confidence == 0).all()
