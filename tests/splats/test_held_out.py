# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from harmonizer_ns.splats.held_out import SparseFit, fit_sparse, select_references, split_capture
from harmonizer_ns.warp import backward_warp


def test_a_split_uses_every_photo_once(wall):
    split = split_capture(wall, range(1, 9, 3))
    assert (split.train, split.test) == ((1, 4, 7), (0, 2, 3, 5, 6, 8))


def test_only_the_training_photos_reach_the_reconstructor(wall, perfect_renderer):
    class Recorder:
        def fit(self, photos, points, colors):
            self.photos, self.points = photos, points
            return perfect_renderer

    recorder = Recorder()
    fit = fit_sparse(split_capture(wall, range(0, 9, 4)), recorder)
    for given, i in zip(recorder.photos, (0, 4, 8), strict=True):
        assert torch.equal(given.rgb, wall.frames(i).rgb)
        assert given.cameras is wall.cameras[i]
    assert recorder.points is wall.points
    assert fit.renderer is perfect_renderer


def test_references_are_near_warp_onto_the_view_and_never_the_excluded_one(wall, perfect_renderer):
    fit = SparseFit(split_capture(wall, range(0, 9, 2)), perfect_renderer)
    render = perfect_renderer.render(wall.cameras[4])
    references = select_references(fit, render.cameras, count=2, exclude=4)
    assert references is not None
    assert sorted(references.cameras.centers[:, 0].tolist()) == pytest.approx([0.5, 1.5])  # photos 2 and 6
    warped = backward_warp(references, render.depth.expand(2, -1, -1, -1), render.cameras[[0, 0]])
    error = (warped.rgb - wall.frames(4).rgb).abs() * (warped.valid > 0.5)
    assert (warped.valid > 0.5).float().mean() > 0.5
    assert error.max() < 0.02


def test_no_photo_left_means_no_reference(wall, perfect_renderer):
    fit = SparseFit(split_capture(wall, [0]), perfect_renderer)
    view = wall.cameras[3]
    assert select_references(fit, view, count=2, exclude=0) is None
    assert select_references(fit, view, count=0) is None
