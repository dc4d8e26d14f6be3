# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import tiny_cosmos
import torch

from harmonizer_ns.bench import gpu
from harmonizer_ns.bench.gpu import SECTIONS, GpuBench, run
from harmonizer_ns.bench.parts import Part
from harmonizer_ns.cli import bench
from harmonizer_ns.errors import InputError


def tiny(path, *sections, **changes):
    return GpuBench(path, sections, architectures=tiny_cosmos.CONFIGS, tiny=True, **changes)


def read(path):
    return json.loads(path.read_text())["sections"]


def numbers(values):
    for value in values.values():
        yield from numbers(value) if isinstance(value, dict) else [value]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", [name for name in SECTIONS if name not in ("fixer", "harmonizer")])  # as difix
def test_every_section_finds_figures(name, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.compile", lambda step, **_: step)
    monkeypatch.setattr("harmonizer_ns.bench.stereo.measure", lambda *_: (0.1, 1 << 20))  # its own test takes long
    run(tiny(tmp_path / "gpu.json", name))
    found = read(tmp_path / "gpu.json")
    assert list(found) == [name]
    assert found[name]
    assert all(isinstance(number, int | float) and number >= 0 for number in numbers(found[name])), found
    if name == "parity":  # the pretended card computes as the CPU does
        assert not any(numbers({key: value for key, value in found[name].items() if "kernels" not in key}))


@pytest.mark.usefixtures("gpu")
def test_what_failed_or_was_left_out_is_written_and_a_later_call_goes_on(tmp_path, monkeypatch):
    done = []

    def section(scale, folder):
        yield Part("first", 0, lambda: done.append("first") or 1)
        yield Part("second", 0, lambda: 1 / 0)

    def long_section(scale, folder):
        yield Part("short", 0, lambda: done.append("short") or 2)
        yield Part("long", 100, lambda: 3)

    monkeypatch.setattr(gpu, "SECTIONS", {"a": section, "b": long_section})
    path = tmp_path / "gpu.json"
    with pytest.raises(SystemExit, match="failed: a, second"):
        run(tiny(path, seconds=50.0))
    assert read(path)["a"] == {"first": 1, "second": {"error": "ZeroDivisionError: division by zero"}}
    assert read(path)["b"]["short"] == 2
    assert "left out" in read(path)["b"]["long"]
    run(tiny(path))
    assert done == ["first", "short", "short"]
    assert read(path)["b"]["long"] == 3
    with pytest.raises(SystemExit):
        run(tiny(path, "a"))
    assert done == ["first", "short", "short", "first"]


@pytest.mark.usefixtures("gpu")
def test_files_of_something_else_stay(tmp_path):
    path = tmp_path / "gpu.json"
    path.write_text('{"format": "mine"}')
    with pytest.raises(InputError, match=r"gpu\.json exists"):
        run(tiny(path))
    assert path.read_text() == '{"format": "mine"}'
    with pytest.raises(InputError, match="there is no section 'speed'"):
        run(tiny(tmp_path / "other.json", "speed"))


def test_without_a_gpu_it_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    options = bench.parse(["gpu", "--json", str(tmp_path / "gpu.json")])
    with pytest.raises(InputError, match="needs an NVIDIA GPU"):
        bench.main(options)
    assert not (tmp_path / "gpu.json").exists()
