# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from toy_enhancer import ToyEnhancer

from harmonizer_ns.enhancers.base import Repaired
from harmonizer_ns.enhancers.gpu_sharing import SHORT_OF_MEMORY, ParkedEnhancer
from harmonizer_ns.types import Cameras, Frames


class Recorder(ToyEnhancer):
    max_references, max_context, needs_geometry, errors_repeat = 2, 3, True, False

    def __init__(self):
        self.moves = []

    def to(self, device):
        self.moves.append(torch.device(device).type)
        return self

    def enhance(self, frames, context=None):
        return Repaired(1 - frames.rgb, frames.alpha)


def frames(device):
    image = torch.full((1, 3, 2, 2), 0.25, device=device)
    camera = Cameras(torch.eye(4)[None], torch.eye(3)[None], 2, 2)
    return Frames(image, image[:, :1], image[:, :1], camera)


@pytest.mark.parametrize(("free", "moves"), [(SHORT_OF_MEMORY / 2, ["meta", "cpu", "meta"]), (0.9, ["meta"])])
def test_leaves_a_full_device_while_idle_and_comes_back(free, moves):
    inner = Recorder()
    parked = ParkedEnhancer(inner, lambda device: free if device.type == "meta" else 1.0)
    for _ in range(2):
        parked.enhance(frames("meta"))
        parked.enhance(frames("meta"))  # no move while it is at work
    assert inner.moves == moves[:1]
    parked.rest()
    parked.rest()
    parked.enhance(frames("meta"))
    assert inner.moves == moves


def test_changes_nothing_else():
    parked = ParkedEnhancer(Recorder())
    assert (parked.max_references, parked.max_context) == (2, 3)
    assert (parked.needs_geometry, parked.errors_repeat) == (True, False)
    assert torch.equal(parked.enhance(frames("cpu")).rgb, torch.full((1, 3, 2, 2), 0.75))


def test_resting_before_any_work_is_nothing():
    inner = Recorder()
    ParkedEnhancer(inner, lambda device: 0.0).rest()
    assert inner.moves == []
