# SPDX-License-Identifier: Apache-2.0
"""Streams of flickering enhancers on a textured wall that slides by whole pixels."""

from dataclasses import replace

import pytest
import torch
from toy_enhancer import ToyEnhancer

from harmonizer_ns.enhancers.base import Repaired
from harmonizer_ns.enhancers.stream import KEPT, EnhancerStream, steady
from harmonizer_ns.types import Cameras, Frames

FOCAL, DEPTH, SHIFT, WIDTH, HEIGHT = 32.0, 2.0, 2, 32, 12


def view(number=0, level=0.0):
    """The wall after ``number`` slides of two pixels, ``level`` brighter."""
    texture = 0.3 + 0.4 * torch.rand(1, 3, HEIGHT, 96, generator=torch.Generator().manual_seed(0))
    pose = torch.eye(4)[None]
    pose[:, 0, 3] = number * SHIFT * DEPTH / FOCAL
    intrinsics = torch.tensor([[[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]]])
    image = torch.ones(1, 1, HEIGHT, WIDTH)
    rgb = texture[..., SHIFT * number : SHIFT * number + WIDTH] + level
    return Frames(rgb, image, DEPTH * image, Cameras(pose, intrinsics, WIDTH, HEIGHT))


class Flickering(ToyEnhancer):
    """Adds a constant, and noise that is new in every frame."""

    def __init__(self, constant=0.1, noise=0.05):
        self.constant, self.noise, self.random = constant, noise, torch.Generator().manual_seed(1)

    def enhance(self, frames, context):
        noise = self.noise * torch.randn(frames.rgb.shape, generator=self.random)
        return Repaired(frames.rgb + self.constant + noise, torch.ones_like(frames.alpha))


def test_noise_of_an_enhancer_is_averaged_away_and_its_constant_change_stays():
    frames = [view(i) for i in range(12)]
    stream, single = EnhancerStream(Flickering()), EnhancerStream(Flickering(), 0)
    seen = slice(0, WIDTH - 2 * SHIFT)
    errors, errors_single = (
        torch.stack([(s.enhance(f).rgb - f.rgb - 0.1)[..., seen] for f in frames]) for s in (stream, single)
    )
    # A recursive filter that keeps the share a leaves (1 - a) / (1 + a) of the variance.
    expected = (1 - KEPT) / (1 + KEPT)
    ratio = (errors[-4:].square().mean() / errors_single[-4:].square().mean()).item()
    assert expected <= ratio < 2.2 * expected
    assert errors[-1].mean().abs() < 0.01


def test_the_change_moves_with_the_scene():
    before, now = view(0), view(1)
    change = torch.zeros_like(before.rgb)
    change[..., 10:14] = 0.2
    shown = steady(now.rgb, now, before.rgb + change, before)
    expected = torch.zeros_like(change)
    expected[..., 10 - SHIFT : 14 - SHIFT] = KEPT * 0.2
    torch.testing.assert_close(shown - now.rgb, expected, atol=1e-4, rtol=0)


def occluded(now):
    return replace(now, depth=0.5 * now.depth)


def empty(now):
    return replace(now, depth=torch.zeros_like(now.depth))


def other_colour(now):
    return replace(now, rgb=now.rgb + 0.25)


@pytest.mark.parametrize("changed", [occluded, empty, other_colour])
def test_nothing_stays_where_something_else_is_seen(changed):
    before, now = view(0), changed(view(0))
    shown = steady(now.rgb, now, before.rgb + 0.1, before)
    torch.testing.assert_close(shown, now.rgb, atol=1e-4, rtol=0)


def test_a_flickering_render_may_be_repaired_at_once():
    before, now = view(0), view(0, level=0.02)
    repaired = view(0).rgb
    torch.testing.assert_close(steady(repaired, now, repaired, before), repaired, atol=1e-5, rtol=0)


def test_the_picture_is_never_less_steady_than_the_enhancer_left_it():
    before, now = view(0), view(0)
    generator = torch.Generator().manual_seed(2)

    def noisy(rgb):
        return (rgb + 0.02 * torch.randn(rgb.shape, generator=generator)).clamp(0, 1)

    before, now = replace(before, rgb=noisy(before.rgb)), replace(now, rgb=noisy(now.rgb))
    shown_before, enhanced = noisy(before.rgb), noisy(now.rgb)
    shown = steady(enhanced, now, shown_before, before)
    moved, moved_plain = ((image - shown_before).square().sum(1) for image in (shown, enhanced))
    assert (moved <= moved_plain + 1e-6).all()
    assert moved.mean() < 0.8 * moved_plain.mean()
