# SPDX-License-Identifier: Apache-2.0
import torch

from harmonizer_ns.bench.viewer import ViewerBench, measure


def test_steps_are_counted_with_and_without_a_client(capture, tmp_path):
    bench = ViewerBench(data=capture, rounds=2, seconds=0.4)
    rates = measure(bench, tmp_path, torch.device("cpu"))
    assert len(rates.alone) == len(rates.watched) == len(rates.pictures) == 2
    assert min(*rates.alone, *rates.watched) > 0
