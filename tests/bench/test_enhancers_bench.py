# SPDX-License-Identifier: Apache-2.0
import pytest
import tiny_cosmos
import torch
from tiny_difix import write_tiny_decoder

from harmonizer_ns.bench.enhancers import EnhancersBench, run
from harmonizer_ns.bench.frames import sample_frames
from harmonizer_ns.bench.timing import Measurement
from harmonizer_ns.cli import bench
from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.difix import DifixEnhancer, DifixNetwork
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import save_image

HARMONIZER = str(tiny_cosmos.CONFIGS / "harmonizer-tiny.json")


def bench_lines(capsys, *arguments):
    options = "--sizes 64x48 --frames 2 --warmup 1 --device cpu"
    bench.main(bench.parse(["enhancers", *map(str, arguments), *options.split()]))
    return capsys.readouterr().out.splitlines()[2:]


def test_every_enhancer_gets_a_line(capsys):
    names = "--enhancers", "none", "builtin", HARMONIZER
    lines = bench_lines(capsys, *names, "--precisions", "fp32", "bf16", "--naive", "True")
    assert [line.split()[0] for line in lines] == ["none"] * 2 + ["builtin"] * 2 + [HARMONIZER] * 4
    assert [("(plain)" in line) for line in lines] == [False] * 5 + [True, False, True]
    assert all(line.count(" ms ") == 2 for line in lines)
    agreements = [float(line.split()[-2]) for line in lines if line.endswith(" dB")]
    assert len(agreements) == 2
    assert agreements[0] > 90  # the plain graph gives the same in fp32


def test_folders_run_in_the_precision_that_is_asked_for(tiny_difix, monkeypatch, capsys):
    seen = []
    repair = DifixNetwork.repair
    monkeypatch.setattr(DifixNetwork, "repair", lambda *args: seen.append(args[1].dtype) or repair(*args))
    bench_lines(capsys, "--enhancers", tiny_difix, "--precisions", "bf16")
    assert set(seen) == {torch.bfloat16}


def test_a_tiny_decoder_gets_a_line_with_its_cost(tiny_difix, tmp_path, capsys):
    tiny = write_tiny_decoder(tmp_path / "tiny")
    for i in range(3):
        save_image(tmp_path / "images" / f"{i}.png", torch.rand(3, 60 + i, 70))
    lines = bench_lines(
        capsys, "--enhancers", tiny_difix, "none", "--tiny-decoder", tmp_path / "tiny", "--images", tmp_path / "images"
    )
    assert ["(tiny decoder)" in line for line in lines] == [False, True, False]
    frames, full = sample_frames(tmp_path / "images", 48, 64), DifixEnhancer.from_pretrained(tiny_difix)
    fast = DifixEnhancer(full.network, tiny_decoder=tiny)
    errors = []
    for i in range(3):
        context = Context((frames[[(i + 1) % 3]],))
        errors.append(full.enhance(frames[i], context).rgb - fast.enhance(frames[i], context).rgb)
    expected = -10 * torch.cat(errors).square().mean().log10()
    assert float(lines[1].split()[-2]) == pytest.approx(float(expected), abs=0.06)


def test_what_a_decoder_loses_is_not_told_from_noise(tmp_path):
    with pytest.raises(InputError, match="wants --images"):
        run(EnhancersBench(("none",), tiny_decoder=str(tmp_path), device="cpu"))


def test_images_are_scaled_and_cropped_never_stretched(tmp_path):
    stripes = torch.zeros(3, 40, 120)
    stripes[:, :, 40:80] = 1
    save_image(tmp_path / "0.png", stripes)
    frames = sample_frames(tmp_path, 20, 20)
    assert frames.rgb.shape == (1, 3, 20, 20)
    assert frames.rgb.min() > 0.8  # the edge is smoothed


def test_statistics():
    measured = Measurement(tuple(float(i) for i in range(1, 102)), None)
    assert (measured.quantile(0.5), measured.quantile(0.95)) == (51.0, 96.0)


@pytest.mark.parametrize("size", ["1024", "x5", "0x5", "axb"])
def test_bad_sizes(size):
    with pytest.raises(InputError, match=f"not '{size}'"):
        run(EnhancersBench(("none",), sizes=(size,), device="cpu"))


def test_bad_architectures(tmp_path):
    (tmp_path / "a.json").write_text("{")
    for name in ("a.json", "absent.json"):
        with pytest.raises(InputError, match=name):
            run(EnhancersBench((str(tmp_path / name),), device="cpu"))
