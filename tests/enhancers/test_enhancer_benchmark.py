# SPDX-License-Identifier: Apache-2.0
import pytest
import tiny_cosmos

from harmonizer_ns.cli import bench
from harmonizer_ns.enhancers.benchmark import EnhancersBench, Measurement, run
from harmonizer_ns.errors import InputError

HARMONIZER = str(tiny_cosmos.CONFIGS / "harmonizer-tiny.json")


def test_every_enhancer_gets_a_line(capsys):
    options = "--sizes 32x24 --precisions fp32 bf16 --frames 2 --warmup 1 --naive True --device cpu"
    bench.main(["enhancers", "--enhancers", "none", "builtin", HARMONIZER, *options.split()])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["none"] * 2 + ["builtin"] * 2 + [HARMONIZER] * 4
    assert [("(plain)" in line) for line in lines] == [False] * 5 + [True, False, True]
    assert all(line.count(" ms ") == 2 for line in lines)


def test_statistics():
    measured = Measurement(tuple(float(i) for i in range(1, 102)), None)
    assert (measured.median, measured.p95) == (51.0, 96.0)


@pytest.mark.parametrize("size", ["1024", "x5", "0x5", "axb"])
def test_bad_sizes(size):
    with pytest.raises(InputError, match=f"not '{size}'"):
        run(EnhancersBench(("none",), sizes=(size,), device="cpu"))


def test_bad_architectures(tmp_path):
    (tmp_path / "a.json").write_text("{")
    for name in ("a.json", "absent.json"):
        with pytest.raises(InputError, match=name):
            run(EnhancersBench((str(tmp_path / name),), device="cpu"))
