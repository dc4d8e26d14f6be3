# SPDX-License-Identifier: Apache-2.0
import re

import pytest
import torch
from plane_scene import PlaneCapture, PlaneRenderer, TrueEnhancer, look_at, plane_points, row_of_cameras

from harmonizer_ns.distill.repairs import Repairs
from harmonizer_ns.distill.settings import DistillSettings
from harmonizer_ns.enhancers.base import Repaired
from harmonizer_ns.enhancers.gpu_sharing import ParkedEnhancer
from harmonizer_ns.interruption import InterruptionError
from harmonizer_ns.types import Frames

TARGETS = [
    look_at((2.0, 0.3, 0), (0, 0, 4)),
    look_at((-2.0, -0.3, 0.2), (0, 0, 4), width=40, height=40),
    look_at((0.0, 1.0, 0), (0, 0, 4)),
]


def planned(enhancer=None, renderer=None, photo_share=2 / 3):
    """Repairs of a run whose rounds are every tenth step from 10 to 100."""
    settings = DistillSettings(
        fix_start=10, steps_per_fix=10, targets="eval", num_references=2, photo_share=photo_share
    )
    capture = PlaneCapture(row_of_cameras(), plane_points())
    repairs = Repairs(settings, capture, renderer or PlaneRenderer(damage=0.3), print)
    repairs.enhancer = ParkedEnhancer(enhancer or TrueEnhancer())
    repairs.plan(0, 100, held_out=TARGETS)
    return repairs


def contents(d):
    return [(v.step, v.target, v.rgb, v.weight, v.camera.camera_to_world) for v in d.store.stored]


def identical(a, b):
    return len(a) == len(b) and all(
        x[:2] == y[:2] and all(torch.equal(p, q) for p, q in zip(x[2:], y[2:], strict=True))
        for x, y in zip(a, b, strict=True)
    )


class Wrapped(TrueEnhancer):
    """Spoils the true output."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def enhance(self, frames, context=None):
        return self.spoil(super().enhance(frames, context))


def test_a_round_repairs_every_target_and_the_store_learns_the_truth():
    d = planned()
    report = d.run(10)
    assert [v.target for v in d.store] == [0, 1, 2]
    assert {v.step for v in d.store} == {10}
    assert (report.step, len(report.used)) == (10, 3)
    for view in d.store:
        truth = PlaneRenderer().render(view.camera).rgb[0]
        assert (view.rgb - truth).abs().mean() < 0.05
        assert view.rgb.shape[1:] == (view.camera.height, view.camera.width)
        assert 0.3 < view.weight.mean() <= 0.9 + 1e-3  # the enhancer says 0.9
    assert not d.due(11)
    assert d.due(20)


def test_rounds_approach_the_targets():
    d = planned()
    reports = [d.run(step) for step in range(10, 101, 10)]
    positions = [r.position for r in reports]
    assert positions == sorted(positions)
    assert positions[0] < 0.5
    assert positions[-1] == 1.0
    last = [v for v in d.store if v.step == 100]
    assert all(torch.equal(v.camera.camera_to_world, t.camera_to_world) for v, t in zip(last, TARGETS, strict=True))


def test_enhancer_gets_photos_of_the_views_size_with_depth():
    enhancer = TrueEnhancer()
    planned(enhancer).run(10)
    sizes = [context.references[0].rgb.shape for context in enhancer.contexts]
    assert sizes == [(2, 3, 32, 48), (2, 3, 40, 40), (2, 3, 32, 48)]
    assert all(context.references[0].depth.min() > 0 for context in enhancer.contexts)


def test_a_report_has_named_pictures_of_every_view():
    d = planned()
    report = d.run(10)
    for view, stored in zip(report.views, d.store.stored, strict=True):
        assert list(view.images) == ["render", "repaired", "reference", "weight"]
        for name, expected in (("render", stored.render), ("repaired", stored.rgb), ("weight", stored.weight)):
            assert torch.equal(view.images[name], expected)
    assert {picture.shape for picture in report.views[0].pictures(side=24).values()} == {(3, 16, 24)}
    strip = report.views[1].strip(10)
    assert strip.shape == (3, strip.shape[1], 4 * 40 + 3 * 4)
    names, pictures = strip[:, :-40], strip[:, -40:]
    assert names.min() < 0.5  # letters on white
    torch.testing.assert_close(pictures[:, :, 44:84], report.views[1].pictures()["repaired"])
    assert report.mean_weight == pytest.approx(sum(v.mean_weight for v in report.views) / 3)


def test_views_that_show_nothing_are_skipped_with_a_reason():
    class Empty(PlaneRenderer):
        def render(self, cameras):
            frames = super().render(cameras)
            empty = frames.cameras.width == 40
            return Frames(frames.rgb, frames.alpha * (not empty), frames.depth * (not empty), cameras)

    enhancer = TrueEnhancer()
    d = planned(enhancer, renderer=Empty())
    report = d.run(10)
    assert "mean alpha 0.000" in report.views[1].skipped
    assert [v.target for v in report.used] == [0, 2]
    assert [v.target for v in d.store] == [0, 2]
    assert enhancer.calls == 2


def test_a_broken_render_is_skipped_with_a_reason():
    class Broken(PlaneRenderer):
        def render(self, cameras):
            frames = super().render(cameras)
            return Frames(frames.rgb * torch.nan, frames.alpha, frames.depth, cameras)

    report = planned(renderer=Broken()).run(10)
    assert all("NaN" in view.skipped for view in report.views)


def fails(_):
    raise TypeError("two\nlines")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: Repaired(r.rgb * torch.nan, r.confidence), "rgb with NaN"),
        (lambda r: Repaired(r.rgb[..., :-1], r.confidence), r"rgb of shape \(1, 3, 32, 47\)"),
        (lambda r: Repaired(r.rgb, r.confidence[:, :, :-2]), r"confidence of shape \(1, 1, 30, 48\)"),
        (lambda r: Repaired(r.rgb, r.confidence / 0), "confidence with NaN or infinity"),
        (lambda r: None, "AttributeError: 'NoneType'"),
        (fails, r"the enhancer failed: TypeError: two \(test_repairs.py, line \d+\); after 3 .* number 1$"),
    ],
)
def test_a_round_in_which_the_enhancer_fails_is_skipped_and_told(spoil, message):
    d = planned(Wrapped(spoil))
    (line,) = d.run(10).lines()
    assert re.search(rf"^Repairs at step 10 skipped: .*{message}", line)
    assert len(d.store) == d.schedule.rounds == 0
    assert not d.due(11)
    assert d.due(20)


def test_after_a_failure_the_next_round_is_the_one_that_was_skipped():
    failing, whole = planned(Wrapped(lambda r: None)), planned()
    failing.run(10)
    failing.enhancer = ParkedEnhancer(TrueEnhancer())
    assert failing.run(20).position == whole.run(10).position


def test_after_three_failed_rounds_repairs_are_off_also_in_a_resumed_run(tmp_path):
    d = planned(Wrapped(lambda r: Repaired(r.rgb * torch.nan, r.confidence)))
    said = [d.run(step).lines()[0] for step in (10, 20)]
    torch.save(d.state_dict(), tmp_path / "state.pt")
    resumed = planned(Wrapped(lambda r: None))
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), tmp_path)
    said.append(resumed.run(30).lines()[0])
    assert [text.rpartition("; ")[2] for text in said] == [
        "after 3 failed rounds repairs are off, this was number 1",
        "after 3 failed rounds repairs are off, this was number 2",
        "repairs are off from now on, 3 rounds have failed",
    ]
    assert not any(resumed.due(step) for step in range(30, 101))
    assert resumed.summary()["failed_rounds"] == 3


NO_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: out of memory"),
    MemoryError(),
)


@pytest.mark.parametrize("error", NO_MEMORY)
@pytest.mark.parametrize("most", [30 * 30, 0])
def test_where_memory_does_not_suffice_a_view_is_repaired_at_half_its_size_or_the_round_skipped(error, most, capsys):
    class Large(TrueEnhancer):
        def enhance(self, frames, context=None):
            if frames.cameras.width * frames.cameras.height > most:
                raise error
            return super().enhance(frames, context)

    d = planned(Large())
    report = d.run(10)
    assert "Out of memory for target 0 at step 10: it is repaired at half its size" in capsys.readouterr().out
    if most:
        assert report.failure is None
        assert [view.rgb.shape[1:] for view in d.store] == [(16, 24), (20, 20), (16, 24)]
        assert d.schedule.rounds == 1
    else:
        assert "memory ran out, at half the size as well" in report.failure
        assert (len(d.store), d.schedule.rounds, d.failed_rounds) == (0, 0, 1)


def test_an_enhancer_that_fails_shows_nothing_and_ends_nothing(capsys):
    frames = PlaneRenderer().render(TARGETS[0])
    for spoil in (lambda r: Repaired(r.rgb * torch.nan, r.confidence), fails, lambda r: None):
        assert planned(Wrapped(spoil)).enhance(frames) is None
        assert "the enhancer failed: " in capsys.readouterr().out
    assert planned().enhance(frames).shape == frames.rgb.shape


def test_distrusted_repairs_are_not_kept():
    d = planned(Wrapped(lambda r: Repaired(r.rgb, torch.zeros_like(r.confidence))))
    report = d.run(10)
    assert len(d.store) == 0
    assert all("trusted" in view.skipped for view in report.views)


def test_outputs_of_the_enhancer_are_not_changed():
    enhancer = TrueEnhancer()
    d = planned(enhancer)
    d.run(10)
    assert all(torch.equal(output.rgb, copy) for output, copy in enhancer.outputs)
    assert any(copy.max() > 1 for _, copy in enhancer.outputs)
    assert all(v.rgb.max() <= 1 for v in d.store)


def test_progress_sees_every_camera():
    seen = []

    def progress(cameras):
        assert len(cameras) == 3
        for camera in cameras:
            seen.append(camera.width)
            yield camera

    planned().run(10, progress)
    assert seen == [48, 40, 48]


def test_an_interrupted_round_leaves_no_trace_and_runs_again_identically():
    whole, broken = planned(), planned()
    for d in (whole, broken):
        d.run(10)
    whole.run(20)
    before = contents(broken)
    random = torch.get_rng_state()

    def interrupted(cameras):
        torch.rand(3)  # as an enhancer may draw
        yield cameras[0]
        raise InterruptionError

    with pytest.raises(InterruptionError):
        broken.run(20, interrupted)
    assert torch.equal(torch.get_rng_state(), random)
    assert identical(contents(broken), before)
    assert broken.schedule.rounds == 1
    assert broken.due(20)
    broken.run(20)
    assert identical(contents(broken), contents(whole))


def test_resumed_run_is_identical(tmp_path):
    whole = planned()
    whole.run(10)
    drawn = [whole.draw(10) for _ in range(5)]
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    whole.store.write(tmp_path / "views")
    resumed = planned()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), tmp_path / "views")
    assert identical(contents(whole), contents(resumed))
    for d in (whole, resumed):
        d.run(20)
    assert identical(contents(whole), contents(resumed))
    choices = [
        [None if v is None else (v.step, v.target) for v in (d.draw(20) for _ in range(40))] for d in (whole, resumed)
    ]
    assert choices[0] == choices[1]
    assert len(drawn) == 5
    assert len(set(choices[0])) > 2


def test_trust_falls_to_nothing_at_the_schedules_end():
    d = planned(photo_share=0.5)
    d.run(10)
    assert d.draw(99) is not None  # rounds run from step 10 to step 100
    assert d.draw(100) is None


def test_trust_lasts_where_errors_average_out():
    class Inventive(TrueEnhancer):
        errors_repeat = False

    d = planned(Inventive(), photo_share=None)
    d.run(10)
    assert all(d.draw(step) is not None for step in range(95, 130))
    assert planned(Inventive(), photo_share=0.65).sampler.pseudo_probability == 1 / 0.65 - 1
    faded = planned(photo_share=None)
    faded.run(10)
    assert faded.draw(100) is None
    assert faded.sampler.pseudo_probability == 1 / 0.65 - 1
