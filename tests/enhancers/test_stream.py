# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch
from toy_enhancer import ToyEnhancer

from harmonizer_ns.enhancers.base import Repaired
from harmonizer_ns.enhancers.stream import HISTORY, EnhancerStream
from harmonizer_ns.types import Cameras, Frames


class Recorder(ToyEnhancer):
    """Brightens by a tenth and notes what it was shown."""

    def __init__(self):
        self.seen = []
        self.fails = False

    def enhance(self, frames, context):
        if self.fails:
            raise RuntimeError("out of memory")
        self.seen.append([item.rgb.mean().item() for item in context.history])
        return Repaired(frames.rgb + 0.1, torch.ones_like(frames.alpha))


def frame(level=0.0, x=0.0, angle=0.0, focal=20.0, size=(16, 12)):
    width, height = size
    turn = torch.tensor([angle])
    pose = torch.eye(4)
    pose[0, 0], pose[0, 2], pose[2, 0], pose[2, 2] = turn.cos(), turn.sin(), -turn.sin(), turn.cos()
    pose[0, 3] = x
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    image = torch.ones(1, 1, height, width)
    return Frames(
        level * image.expand(1, 3, -1, -1), image, 2 * image, Cameras(pose[None], intrinsics[None], width, height)
    )


def test_history_is_newest_first_and_holds_outputs_not_renders():
    recorder = Recorder()
    stream = EnhancerStream(recorder)
    for i in range(HISTORY + 2):
        stream.enhance(frame(level=i / 10))
    assert recorder.seen[0] == []
    assert recorder.seen[2] == pytest.approx([0.2, 0.1])
    assert recorder.seen[-1] == pytest.approx([0.5, 0.4, 0.3, 0.2])


@pytest.mark.parametrize(
    ("change", "cut"),
    [
        ({"x": 0.5}, False),
        ({"x": 1.5}, True),
        ({"angle": 0.2}, False),
        ({"angle": 1.0}, True),
        ({"focal": 21.0}, False),
        ({"focal": 40.0}, True),
        ({"focal": 10.0}, True),
        ({"size": (32, 24)}, True),
    ],
)
def test_a_camera_that_jumps_empties_the_history(change, cut):
    recorder = Recorder()
    stream = EnhancerStream(recorder)
    stream.enhance(frame())
    stream.enhance(frame(**change))
    assert (recorder.seen[-1] == []) == cut
    assert len(stream.history) == (1 if cut else 2)


def test_shifts_count_relative_to_depth():
    recorder = Recorder()
    stream = EnhancerStream(recorder)
    for x in (0.0, 1.5):
        near = frame(x=x)
        stream.enhance(replace(near, depth=10 * near.depth))
    assert recorder.seen[-1] != []


def test_a_new_version_of_the_scene_empties_the_history():
    recorder = Recorder()
    stream = EnhancerStream(recorder)
    for version in (1, 1, 2, 2):
        stream.enhance(frame(), version=version)
    assert [len(seen) for seen in recorder.seen] == [0, 1, 0, 1]


def test_a_failed_frame_leaves_the_history_whole():
    recorder = Recorder()
    stream = EnhancerStream(recorder)
    stream.enhance(frame(), version=1)
    before = stream.history
    recorder.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        stream.enhance(frame(x=5.0), version=2)
    assert stream.history is before
    recorder.fails = False
    stream.enhance(frame(), version=1)
    assert len(recorder.seen[-1]) == 1


def test_without_length_nothing_is_remembered_and_batches_are_refused():
    recorder = Recorder()
    stream = EnhancerStream(recorder, 0)
    for _ in range(2):
        stream.enhance(frame())
    assert recorder.seen == [[], []]
    with pytest.raises(ValueError, match="one frame at a time, not 2"):
        stream.enhance(
            Frames(
                *(torch.cat([part, part]) for part in (frame().rgb, frame().alpha, frame().depth)),
                frame().cameras[[0, 0]],
            )
        )
    with pytest.raises(ValueError, match="-1"):
        EnhancerStream(recorder, -1)
