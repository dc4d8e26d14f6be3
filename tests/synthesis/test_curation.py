# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch
from toy import capture_of

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.captures.frame import Similarity
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import to_float, to_uint8
from harmonizer_ns.synthesis.streams.base import Made
from harmonizer_ns.synthesis.streams.curation import (
    SPLATS,
    CrossReferenceSettings,
    CurationSettings,
    CycleSettings,
    SparseSettings,
    UnderfitSettings,
    make_cross_reference,
    make_cycle,
    make_sparse,
)
from harmonizer_ns.synthesis.streams.fits import capacity, choose_windows
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.warp import backproject, backward_warp

COUNT = 24
STREAMS = {
    "sparse": (make_sparse, SparseSettings),
    "underfit": (make_sparse, UnderfitSettings),
    "cycle": (make_cycle, CycleSettings),
    "cross_reference": (make_cross_reference, CrossReferenceSettings),
}


class WallRenderer:
    """A textured wall at z = 4, exactly: what a perfect reconstruction renders; remembers where it was asked to."""

    def __init__(self) -> None:
        self.centers: list[list[float]] = []

    def render(self, cameras: Cameras) -> Frames:
        self.centers += cameras.centers.tolist()
        depth = torch.full((len(cameras), 1, cameras.height, cameras.width), 4.0)
        x, y, _ = backproject(depth, cameras).unbind(-1)
        rgb = torch.stack([0.4 + 0.2 * torch.sin(a * x + b * y) for a, b in ((3, 1), (1, 4), (2, -2))], dim=1)
        return Frames(to_float(to_uint8(rgb)), torch.ones_like(depth), depth, cameras)  # as photos are


class Fits:
    """A reconstructor that is perfect, and remembers what it was given."""

    def __init__(self) -> None:
        self.photos: list[list[Frames]] = []
        self.renderer = WallRenderer()
        self.built: list[tuple[CurationSettings, int]] = []

    def build(self, settings: CurationSettings, seed: int) -> Fits:
        self.built.append((settings, seed))
        return self

    def fit(self, photos, points, colors) -> WallRenderer:
        self.photos.append(photos)
        return self.renderer


@pytest.fixture
def fits() -> Fits:
    return Fits()


@pytest.fixture
def rig() -> Capture:
    """Two cameras, one above the other, that move along x in steps of 0.25."""
    pose = torch.eye(4).repeat(COUNT, 1, 1)
    pose[:, 0, 3] = 0.25 * (torch.arange(COUNT) % 12)
    pose[12:, 1, 3] = 0.5
    intrinsics = torch.tensor([[40.0, 0, 24], [0, 40.0, 16], [0, 0, 1]]).repeat(COUNT, 1, 1)
    photos = list(WallRenderer().render(Cameras(pose, intrinsics, 48, 32)))
    points = torch.cat([backproject(p.depth, p.cameras)[0, ::8, ::8].reshape(-1, 3) for p in photos[::3]])
    names = tuple(f"images/{'left' if i < 12 else 'right'}/{i % 12:03d}.png" for i in range(COUNT))
    return capture_of("rig", names, photos, points)


def make(kind: str, capture: Capture, seed: int = 0, fits: Fits | None = None, **changes) -> list[Made]:
    function, settings = STREAMS[kind]
    return list(function(capture, replace(settings(), **changes), seed, {"splat": fits.build} if fits else SPLATS))


def view_of(capture: Capture, made: Made) -> int:
    return capture.names.index(made.source)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_perfect_reconstruction_changes_nothing(kind, rig, fits):
    made = make(kind, rig, fits=fits, near_clean=0.5) if kind != "cycle" else make(kind, rig, fits=fits)
    assert len(made) == 10
    for one in made:
        torch.testing.assert_close(one.image, one.target, atol=1e-5, rtol=0)
        torch.testing.assert_close(one.target, rig.frames(view_of(rig, one)).rgb[0])


@pytest.mark.parametrize("kind", STREAMS)
def test_clips_are_neighbouring_frames_of_one_camera_with_the_same_parameters(kind, rig, fits):
    for seed in range(3):
        made = make(kind, rig, seed, fits, clips=2, clip=4)
        clips = [[one for one in made if one.clip == clip] for clip in (0, 1)]
        assert [one.clip for one in made] == [0] * 4 + [1] * 4
        train = {tuple(photo.cameras.centers[0].tolist()) for photo in fits.photos[-1]}
        fitted = [tuple(camera.centers[0].tolist()) in train for camera in rig.cameras]
        for clip in clips:
            views = [view_of(rig, one) for one in clip]
            kinds = {fitted[view] for view in views}
            assert len({rig.names[view][:9] for view in views}) == len(kinds) == 1
            between = [i for i in range(views[0], views[-1] + 1) if fitted[i] == fitted[views[0]]]
            assert views == between
            assert all(one.parameters == clip[0].parameters for one in clip)
            assert json.loads(json.dumps(clip[0].parameters)) == clip[0].parameters
            if kind != "cycle":
                assert clip[0].parameters["fitted"] == kinds.pop()
        assert len({one.source for one in made}) == len(made)


@pytest.mark.parametrize("kind", STREAMS)
def test_references_are_other_photos_that_warp_onto_the_target(kind, rig, fits):
    for one in make(kind, rig, 3, fits):
        assert one.references is not None
        assert one.geometry is not None
        frames = one.references.frames
        own = one.source.removeprefix("images/").removesuffix(".png")
        assert len(set(one.references.names)) == len(frames) == 3
        assert own not in one.references.names
        for name, frame in zip(one.references.names, frames, strict=True):
            photo = rig.frames(rig.names.index(f"images/{name}.png"))
            assert torch.equal(frame.rgb, photo.rgb)
            assert torch.equal(frame.cameras.camera_to_world, photo.cameras.camera_to_world)
        warped = backward_warp(frames[0], one.geometry.depth, one.geometry.cameras, 0.05)
        seen = warped.valid[0].bool().expand(3, -1, -1)
        assert seen.float().mean() > 0.5
        assert (warped.rgb[0] - one.target)[seen].abs().max() < 0.05


@pytest.mark.parametrize("kind", STREAMS)
def test_the_seed_is_all_that_is_random(kind, rig, fits):
    first, again, other = (
        [(one.source, one.clip, one.parameters) for one in make(kind, rig, seed, fits)] for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other
    assert fits.built[0] == fits.built[1 if kind != "cycle" else 2]


def test_held_out_photos_are_never_fitted(rig, fits):
    for seed in range(5):
        made = make("sparse", rig, seed, fits, near_clean=0.0)
        train = {str(photo.cameras.centers.tolist()) for photo in fits.photos[-1]}
        shown = {str(one.geometry.cameras.centers.tolist()) for one in made if one.geometry is not None}
        assert not train & shown
        parameters = made[0].parameters
        assert len(train) == len(range(parameters["offset"], COUNT, parameters["every"]))


def test_underfitting_takes_a_share_of_the_steps_and_shows_fitted_photos(rig, fits):
    steps, fitted = [], []
    for seed in range(8):
        made = make("underfit", rig, seed, fits, steps=1000)
        steps.append(fits.built[-1][0].steps)
        fitted += [one.parameters["fitted"] for one in made]
        assert made[0].parameters["steps"] == steps[-1]
    assert min(steps) >= 250
    assert max(steps) <= 750
    assert len(set(steps)) > 5
    assert set(fitted) == {True, False}


def test_cycle_refits_renders_from_shifted_cameras_alone(rig, fits):
    made = make("cycle", rig, 1, fits, shift=(2.0, 2.0))
    photos, renders = fits.photos
    moves = torch.cat([r.cameras.centers - p.cameras.centers for p, r in zip(photos, renders, strict=True)])
    assert len(renders) == COUNT
    torch.testing.assert_close(moves.norm(dim=1), torch.full((COUNT,), 0.5))  # twice the spacing of 0.25
    torch.testing.assert_close(moves[0], torch.tensor(made[0].parameters["offset"]))
    assert moves[0, 0].abs() > moves[0, 1].abs()
    for render in renders:
        assert torch.equal(render.rgb, WallRenderer().render(render.cameras).rgb)


def test_cycle_does_not_depend_on_the_unit_of_length(rig, fits):
    large = rig.moved(Similarity(torch.diag(torch.tensor([100.0, 100, 100, 1], dtype=torch.float64))))
    first, second = (torch.tensor(make("cycle", c, 4, fits)[0].parameters["offset"]) for c in (rig, large))
    torch.testing.assert_close(first * 100, second)


def test_cross_reference_fits_some_cameras_and_shows_the_others(rig, fits):
    for seed in range(4):
        made = make("cross_reference", rig, seed, fits, near_clean=0.0)
        (camera,) = made[0].parameters["cameras"]
        assert len(fits.photos[-1]) == 12
        assert all(not one.source.startswith(camera) for one in made)
    made = make("cross_reference", rig, 0, fits, near_clean=0.0, cameras=("*left*",))
    assert all(one.source.startswith("images/right") for one in made)


def test_references_are_rendered_once(rig, fits):
    make("sparse", rig, 0, fits)
    assert len(fits.renderer.centers) == len({str(center) for center in fits.renderer.centers})


@pytest.mark.parametrize("count", [2, 7, 12])
def test_too_few_photos_say_how_many_are_needed(rig, count):
    small = rig.part(range(count))
    with pytest.raises(InputError, match=rf"rig has {count} photos.* need 14 of one camera"):
        make("sparse", small, every=(2, 3), clip=10, clips=1)
    with pytest.raises(InputError, match=rf"rig has {count} photos.* need 15 of one camera"):
        make("cycle", small, clips=3)


def test_the_stated_number_of_photos_is_enough(rig, fits):
    single = replace(rig, names=tuple(f"images/{i}.png" for i in range(COUNT)))

    def first(n: int) -> Capture:
        return single.part(range(n))

    assert len(make("sparse", first(12), 0, fits, every=(4, 4), near_clean=0.0, clips=3, clip=3)) == 9
    with pytest.raises(InputError, match="need 12 of one camera"):
        make("sparse", first(11), 0, fits, every=(4, 4), near_clean=0.0, clips=3, clip=3)


def test_one_camera_and_useless_patterns_are_no_rig(rig):
    left = rig.part(range(12))
    with pytest.raises(InputError, match=r"from one camera.*'images/left'.*cameras"):
        make("cross_reference", left)
    for pattern, matched in (("*middle*", 0), ("*", COUNT)):
        with pytest.raises(InputError, match=f"match {matched} of {COUNT} photos"):
            make("cross_reference", rig, cameras=(pattern,))


def test_a_splat_wants_seed_points_and_a_cycle_wants_places(rig):
    bare = replace(rig, points=rig.points[:2], colors=rig.colors[:2])
    with pytest.raises(InputError, match=r"2 seed points.*reconstructor: nerf"):
        make("sparse", bare)
    still = replace(rig, cameras=[rig.cameras[0]] * COUNT)
    with pytest.raises(InputError, match="one place"):
        make("cycle", still)


def test_a_reconstructor_that_is_not_at_hand_is_named(rig):
    with pytest.raises(InputError, match="nerf is not at hand, only splat"):
        make("sparse", rig, reconstructor="nerf")


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        (CurationSettings, {"clip": 0}),
        (SparseSettings, {"every": (0, 2)}),
        (SparseSettings, {"every": (3, 2)}),
        (UnderfitSettings, {"share": (0.5, 1.5)}),
        (CycleSettings, {"shift": (2.0, 1.0)}),
        (SparseSettings, {"near_clean": 1.5}),
        (CrossReferenceSettings, {"near_clean": -0.1}),
    ],
)
def test_bad_settings_are_named(settings, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        settings(**change)


def test_a_real_splat_is_damaged_and_the_same_for_the_same_seed(rig):
    def made() -> list[Made]:
        return make("sparse", rig, 2, steps=100, max_gaussians=500, clips=1)

    first, again = made(), made()
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.image, other.image)
        assert one.geometry is not None
        assert other.geometry is not None
        assert torch.equal(one.geometry.depth, other.geometry.depth)
        error = (one.image - one.target).square().mean()
        assert 1e-5 < error < (one.target - one.target.mean()).square().mean()


def test_windows_use_the_room_there_is(rig):
    names = [f"images/{camera}/{i}.png" for camera in "ab" for i in range(7)]
    assert capacity(names, range(14), 3) == 4
    windows = choose_windows(replace(rig, names=tuple(names), train=range(14)), 4, 3, 0.0, random.Random(0))
    assert len({view for window in windows for view in window}) == 12
