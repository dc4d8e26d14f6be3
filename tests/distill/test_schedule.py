# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from plane_scene import look_at, row_of_cameras

from harmonizer_ns.distill.schedule import ProgressiveSchedule
from harmonizer_ns.poses import rotation_angle

TARGETS = [
    look_at((3.0, 0.4, -0.5), (0.5, 0, 4), width=40, height=40, focal=55.0),
    look_at((-1.3, 0.0, 0.0), (-1.3, 0, 4)),
    look_at((0.0, 0.0, 0.0), (3.0, 0, 1)),
]


def schedule(train=None, targets=None, last_step=3000, step_fraction=0.5):
    """A round at step 200 and every hundred steps after."""
    train = row_of_cameras() if train is None else train
    steps = range(200, last_step + 1, 100)
    return ProgressiveSchedule(train, TARGETS if targets is None else targets, steps, last_step, step_fraction)


def advance(plan, step):
    """The cameras of a round."""
    cameras = plan.upcoming()
    plan.advance(step)
    return cameras


def rounds(plan, count):
    return [advance(plan, step) for step in plan.steps[:count]]


def positions(plan):
    """``u`` of every target after the rounds done so far."""
    return [approach.position(plan.rounds) for approach in plan.approaches]


def steps_of_rounds(plan):
    steps = []
    for step in range(800):
        if plan.due(step):
            plan.advance(step)
            steps.append(step)
    return steps


def same(a, b):
    return (
        torch.equal(a.camera_to_world, b.camera_to_world)
        and torch.equal(a.intrinsics, b.intrinsics)
        and (a.width, a.height) == (b.width, b.height)
    )


def scaled(camera, factor):
    pose = camera.camera_to_world.clone()
    pose[:, :3, 3] *= factor
    return replace(camera, camera_to_world=pose)


def test_arrives_exactly_and_stays():
    history = rounds(schedule(), 29)
    assert all(same(a, b) for a, b in zip(history[-1], TARGETS, strict=True))
    assert all(same(a, b) for a, b in zip(history[-2], TARGETS, strict=True))
    assert not same(history[0][0], TARGETS[0])


def test_a_round_moves_by_the_fraction_of_the_spacing():
    plan = schedule(step_fraction=0.5, last_step=6000)  # cameras stand 0.5 apart, so rounds move 0.25 or turn 5 degrees
    history = rounds(plan, 3)
    start = row_of_cameras()[0]
    assert torch.allclose(history[0][1].centers - start.centers, torch.tensor([[-0.25, 0, 0]]), atol=1e-6)
    for before, after in pairwise(history):
        turned = rotation_angle(before[2].camera_to_world[0, :3, :3], after[2].camera_to_world[0, :3, :3])
        assert math.degrees(turned) == pytest.approx(5.0, abs=1e-3)
        assert (after[0].centers - before[0].centers).norm() <= 0.25 + 1e-5


@pytest.mark.parametrize(("step_fraction", "rounds_until_arrival"), [(0.001, 14), (0.6, 12)])
def test_every_target_is_reached_in_half_of_the_rounds(step_fraction, rounds_until_arrival):
    plan = schedule(targets=TARGETS[2:], step_fraction=step_fraction)  # turns 71.6 degrees; 29 rounds in all
    rounds(plan, rounds_until_arrival - 1)
    assert positions(plan)[0] < 1
    plan.advance(2200)
    assert positions(plan) == [1.0]


def test_translation_and_rotation_go_together():
    plan = schedule(targets=TARGETS[:1])
    end, start = TARGETS[0], row_of_cameras()[-1]
    whole = rotation_angle(start.camera_to_world[0, :3, :3], end.camera_to_world[0, :3, :3])
    for (camera,) in rounds(plan, 4):
        moved = (camera.centers - start.centers).norm() / (end.centers - start.centers).norm()
        turned = rotation_angle(start.camera_to_world[0, :3, :3], camera.camera_to_world[0, :3, :3]) / whole
        assert moved.item() == pytest.approx(turned.item(), abs=1e-4)
    assert moved.item() == pytest.approx(positions(plan)[0], abs=1e-4)


@pytest.mark.parametrize("factor", [1e-3, 0.1, 64.0, 1e4])
def test_scale_of_the_scene_does_not_matter(factor):
    plain = schedule()
    other = schedule([scaled(c, factor) for c in row_of_cameras()], [scaled(c, factor) for c in TARGETS])
    for a, b in zip(rounds(plain, 12), rounds(other, 12), strict=True):
        assert positions(other) == pytest.approx(positions(plain), rel=1e-5)
        for x, y in zip(a, b, strict=True):
            assert torch.allclose(scaled(x, factor).camera_to_world, y.camera_to_world, rtol=1e-4, atol=1e-5 * factor)


def test_intrinsics_and_size_are_the_targets_and_zoom_in_steps():
    cameras = [camera for camera, *_ in rounds(schedule(), 12)]
    assert {(c.width, c.height) for c in cameras} == {(40, 40)}
    focals = [c.intrinsics[0, 0, 0].item() for c in cameras]
    assert focals == sorted(focals)  # from 40 * 40 / 32 = 50 (covering 40 x 40) to 55
    assert 50.0 < focals[0] < focals[5] <= 55.0


def test_due_every_so_many_steps():
    plan = schedule(last_step=520)
    assert steps_of_rounds(plan) == [200, 300, 400, 500]


def test_rounds_at_given_steps():
    plan = ProgressiveSchedule(row_of_cameras(), TARGETS, [7, 12, 40], last_step=60, step_fraction=1e-6)
    assert steps_of_rounds(plan) == [7, 12, 40]
    assert positions(plan) == [1.0] * 3  # in half of the rounds: one of three
    assert [plan.remaining(step) for step in (0, 7, 60)] == [1, 1, 0]


def test_what_remains_falls_linearly_from_first_to_last_round():
    plan = schedule(last_step=600)  # from step 200
    assert [plan.remaining(step) for step in (0, 200, 300, 500, 600, 900)] == pytest.approx([1, 1, 0.75, 0.25, 0, 0])


def test_rounds_missed_during_a_pause_are_not_made_up():
    plan = schedule()
    plan.advance(200)
    assert plan.due(1000)
    plan.advance(1000)
    assert not plan.due(1001)


def test_looking_ahead_changes_nothing():
    plan = schedule()
    ahead = plan.upcoming()
    position = plan.upcoming_position()
    assert all(same(a, b) for a, b in zip(ahead, advance(plan, 200), strict=True))
    assert position == pytest.approx(sum(positions(plan)) / len(TARGETS))


def test_resume_gives_the_same_cameras():
    whole, first, second = schedule(), schedule(), schedule()
    expected = rounds(whole, 8)
    rounds(first, 4)
    state = first.state_dict()
    assert all(type(value) is int for value in state.values())
    second.load_state_dict(state)
    assert not second.due(550)
    assert second.due(600)
    for i in range(4):
        resumed = advance(second, 600 + 100 * i)
        assert all(same(a, b) for a, b in zip(resumed, expected[4 + i], strict=True))
    fresh = schedule()
    fresh.load_state_dict(schedule().state_dict())
    assert fresh.due(200)


@pytest.mark.parametrize("count", [1, 3])
def test_cameras_without_spacing(count):
    plan = schedule(train=row_of_cameras(1) * count, step_fraction=0.25)
    history = rounds(plan, 4)
    assert all(torch.isfinite(c.camera_to_world).all() for round_ in history for c in round_)
    assert positions(plan) == [1.0, 1.0, 1.0]
    assert history[1][0].centers[0, 0].item() == pytest.approx(1.5)


def test_a_target_on_a_training_camera():
    plan = schedule(targets=row_of_cameras()[2:3])
    assert same(advance(plan, 200)[0], row_of_cameras()[2])


def test_broken_targets_are_named():
    broken = replace(TARGETS[0], camera_to_world=TARGETS[0].camera_to_world * torch.nan)
    with pytest.raises(ValueError, match="target 1 contains NaN"):
        schedule(targets=[TARGETS[0], broken])
