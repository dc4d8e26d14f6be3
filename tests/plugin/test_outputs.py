# SPDX-License-Identifier: Apache-2.0
import torch

from harmonizer_ns.plugin.outputs import ENHANCED, EnhancedOutputs


def test_enhancement_is_listed_last_and_paid_for_once_when_read():
    calls = []

    def enhance(outputs):
        calls.append(1)
        return outputs["rgb"] + 1

    outputs = EnhancedOutputs({"rgb": torch.zeros(2), "depth": torch.ones(2)}, enhance)
    assert list(outputs) == ["rgb", "depth", ENHANCED]
    assert not calls
    for _ in range(2):
        assert outputs[ENHANCED].tolist() == [1.0, 1.0]
    assert calls == [1]
    assert outputs["rgb"].tolist() == [0.0, 0.0]


def test_every_way_of_reading_sees_the_image():
    for read in (
        lambda o: dict(o.items())[ENHANCED],
        lambda o: list(o.values())[-1],
        lambda o: o.get(ENHANCED),
    ):
        assert read(EnhancedOutputs({"rgb": 1}, lambda o: o["rgb"] + 1)) == 2
    assert EnhancedOutputs({}, lambda o: 0).get("nothing", 5) == 5
