# SPDX-License-Identifier: Apache-2.0
"""A video whose making was interrupted goes on where it was."""

import pytest
import torch
from toy_enhancer import ToyEnhancer

from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.errors import InputError
from harmonizer_ns.footage import video_parts
from harmonizer_ns.footage.files import enhance_path, find_references
from harmonizer_ns.footage.sequence import FrameEnhancer, Item
from harmonizer_ns.images import save_image, to_float
from harmonizer_ns.media import read_video, written_video


class Negative(ToyEnhancer):
    """Inverts colours until it is interrupted, and remembers frames and history."""

    def __init__(self, max_context=0, calls_until_interrupt=-1):
        self.max_context, self.left, self.shown = max_context, calls_until_interrupt, []

    def enhance(self, frames, context=Context()):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.shown.append((frames.rgb, [output.rgb for output in context.history]))
        return Repaired(1 - frames.rgb, torch.ones_like(frames.alpha))


def frame(i):
    """Grey values tell frames apart."""
    return torch.full((3, 24, 32), 0.2 + 0.05 * i)


def grey(pictures):
    return [round(float(picture.mean()), 2) for picture in pictures]


@pytest.fixture(autouse=True)
def short_parts(monkeypatch):
    monkeypatch.setattr(video_parts, "PART_FRAMES", 2)


@pytest.fixture
def video(tmp_path):
    with written_video(tmp_path / "in.mp4", 30000 / 1001) as writer:
        for i in range(9):
            writer.write(frame(i))
    return tmp_path / "in.mp4"


def enhance(source, target, enhancer, side_by_side=False, repair=""):
    frames = FrameEnhancer(enhancer, find_references(()), batch=1)
    return enhance_path(source, target, frames, side_by_side, repair=repair)


@pytest.mark.parametrize("side_by_side", [False, True])
def test_it_goes_on_with_the_same_history(video, tmp_path, side_by_side):
    target = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        enhance(video, target, Negative(3, calls_until_interrupt=5), side_by_side)
    assert not target.exists()
    resumed = Negative(3)
    assert enhance(video, target, resumed, side_by_side) == 5  # four of the five frames were in finished parts
    assert grey(rgb for rgb, _ in resumed.shown) == pytest.approx([0.4, 0.45, 0.5, 0.55, 0.6], abs=0.011)
    assert grey(resumed.shown[0][1]) == pytest.approx([0.65, 0.7, 0.75], abs=0.011)
    info, frames = read_video(target)
    halves = [to_float(picture[..., -32:]) for picture in frames]
    assert info.fps == pytest.approx(30000 / 1001)
    assert grey(halves) == pytest.approx([0.8 - 0.05 * i for i in range(9)], abs=0.011)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_a_run_that_differs_begins_again(video, tmp_path):
    target = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        enhance(video, target, Negative(calls_until_interrupt=5), repair="one")
    assert enhance(video, target, Negative(), repair="other") == 9
    assert len(list(read_video(target)[1])) == 9


def test_frames_that_were_left_out_are_told_once_at_the_end(tmp_path):
    for i in range(7):
        save_image(tmp_path / "in" / f"{i}.png", frame(i))
    (tmp_path / "in" / "1.png").write_bytes(b"junk")
    with pytest.raises(KeyboardInterrupt):
        enhance(tmp_path / "in", tmp_path / "out.mp4", Negative(calls_until_interrupt=4))
    resumed = Negative()
    with pytest.raises(InputError, match=r"^1 frame was left out: .*1\.png"):
        enhance(tmp_path / "in", tmp_path / "out.mp4", resumed)
    assert len(resumed.shown) == 2
    expected = [0.8 - 0.05 * i for i in (0, 2, 3, 4, 5, 6)]
    assert grey(map(to_float, read_video(tmp_path / "out.mp4")[1])) == pytest.approx(expected, abs=0.011)


def test_nothing_is_left_of_a_run_that_ended_before_its_first_part(video, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        enhance(video, tmp_path / "out.mp4", Negative(calls_until_interrupt=1))
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_slow_work_is_kept_every_minute(tmp_path, monkeypatch):
    monkeypatch.setattr(video_parts, "PART_FRAMES", 100)
    seconds = iter(range(0, 1000, 40))
    parts = video_parts.VideoParts(tmp_path / "out.mp4", 25, {}, [], clock=lambda: next(seconds))
    with parts:
        for i in range(4):
            parts.write(Item(i, "", lambda: frame(0)), frame(i))
        files = [path.name for path in sorted((tmp_path / ".out.mp4.parts").glob("*.mp4"))]
    assert files == ["000000000.mp4", "000000002.mp4"]
