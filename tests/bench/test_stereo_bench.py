# SPDX-License-Identifier: Apache-2.0
from harmonizer_ns.bench.stereo import StereoBench, measure
from harmonizer_ns.cli import bench


def test_a_size_is_timed():
    seconds, added = measure(StereoBench(photos=2), (48, 27), "cpu")
    assert seconds > 0
    assert added >= 0


def test_the_command_reads_its_options():
    assert bench.parse(["stereo", "--sizes", "64x36", "--photos", "3"]) == StereoBench(sizes=("64x36",), photos=3)
