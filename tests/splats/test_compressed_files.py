# SPDX-License-Identifier: Apache-2.0
"""Compressed PLY and .spz: what comes back, what it looks like, and the layout on disk."""

import gzip
import importlib.util
import struct
import sys

import numpy as np
import pytest
import torch
from plyfile import PlyData
from toy import arc_cameras

from harmonizer_ns import metrics
from harmonizer_ns.errors import InputError
from harmonizer_ns.splats.compressed import _in_chunks, fractional_bits
from harmonizer_ns.splats.files import SUFFIXES, read_splats, write_splats
from harmonizer_ns.splats.model import NAMES
from harmonizer_ns.splats.rendering import SplatRenderer

KINDS = ("ply_compressed", "spz")
needs_gsply = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("gsply", "zstandard"))), reason="the extra 'splats' is not installed"
)


def some_splats(count=700, degree=3, seed=0):
    """Turned, elongated Gaussians whose colour changes with the view; quaternions are not normalised."""
    g = torch.Generator().manual_seed(seed)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(count, *shape, generator=g)

    return {
        "means": uniform(-1, 1, 3),
        "scales": uniform(-4.5, -2, 3),
        "quats": 2 * torch.randn(count, 4, generator=g),
        "opacities": uniform(-3, 6),
        "sh0": uniform(-1.5, 1.5, 1, 3),
        "shN": uniform(-0.4, 0.4, (degree + 1) ** 2 - 1, 3),
    }


def through(path, splats, kind):
    """Written, and read by their suffix; in the old order again."""
    file = path / f"s{SUFFIXES[kind]}"
    write_splats(file, splats, kind)
    back = read_splats(file)
    nearest = torch.cdist(splats["means"], back["means"]).argmin(dim=1)
    assert sorted(nearest.tolist()) == list(range(len(splats["means"])))
    return {name: back[name][nearest] for name in NAMES}


def picture(splats):
    cameras = arc_cameras(3, 96, 72, span=2.5)
    return SplatRenderer(splats).render(cameras).rgb


def psnr(splats, wanted):
    """Of the picture that differs most from the wanted one."""
    return metrics.psnr(picture(splats), wanted).min()


@needs_gsply
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_numbers_come_back_within_their_steps(tmp_path, kind, degree):
    splats = some_splats(degree=degree)
    back = through(tmp_path, splats, kind)
    # Chunks hold no more than the whole box: 2 / 1023, 2.5 / 1023. An .spz of this size has 23 fractional bits.
    steps = {
        "ply_compressed": {"means": 2 / 1023, "scales": 2.5 / 1023, "sh0": 3 / 255, "shN": 2 / 32},
        "spz": {"means": 1e-6, "scales": 1 / 16, "sh0": 1 / 255 / 0.15, "shN": 1 / 128},
    }[kind]
    for name, step in steps.items():
        torch.testing.assert_close(back[name], splats[name], rtol=0, atol=0.51 * step)
    alpha, wanted = back["opacities"].sigmoid(), splats["opacities"].sigmoid()
    torch.testing.assert_close(alpha, wanted, rtol=0, atol=0.51 / 255)
    turned = (torch.nn.functional.normalize(splats["quats"], dim=1) * back["quats"]).sum(dim=1).abs()
    assert turned.min() > 0.9999


@needs_gsply
@pytest.mark.parametrize("kind", KINDS)
def test_it_looks_the_same_and_mistakes_of_layout_would_show(tmp_path, kind):
    splats = some_splats()
    wanted = picture(splats)
    back = through(tmp_path, splats, kind)
    assert psnr(back, wanted) > 40
    last = {**back, "quats": back["quats"].roll(-1, dims=1)}
    mixed = {**back, "shN": back["shN"].transpose(1, 2).reshape(back["shN"].shape)}
    assert psnr(last, wanted) < 30
    assert psnr(mixed, wanted) < 30


@needs_gsply
def test_spz_has_the_published_layout(tmp_path):
    splats = some_splats(count=5, degree=2)
    write_splats(tmp_path / "s.spz", splats, "spz")
    raw = gzip.decompress((tmp_path / "s.spz").read_bytes())
    magic, version, count, degree, bits = struct.unpack("<IIIBB", raw[:14])
    assert (magic, version, count, degree) == (0x5053474E, 3, 5, 2)
    sections = np.split(np.frombuffer(raw[16:], np.uint8), np.cumsum([45, 5, 15, 15, 20]))
    low, middle, high = sections[0].reshape(15, 3).T.astype(np.int32)
    fixed = (low | middle << 8 | high << 16) << 8 >> 8
    np.testing.assert_allclose(fixed / 2**bits, splats["means"].flatten(), atol=2e-7)
    # The channel runs fastest; a viewer that took it for the PLY's order would show wrong colours.
    np.testing.assert_allclose((sections[5] / 128.0) - 1, splats["shN"].flatten(), atol=0.51 / 128)


@needs_gsply
def test_compressed_ply_has_the_published_layout(tmp_path):
    splats = some_splats(count=40, degree=2)
    write_splats(tmp_path / "s.compressed.ply", splats, "ply_compressed")
    data = PlyData.read(str(tmp_path / "s.compressed.ply"))
    chunk, packed = data["chunk"].data[0], data["vertex"]["packed_position"]
    assert chunk["min_y"] == splats["means"][:, 1].min()
    assert chunk["max_scale_z"] == splats["scales"][:, 2].max()
    y = chunk["min_y"] + (packed >> 11 & 1023) / 1023 * (chunk["max_y"] - chunk["min_y"])
    nearest = np.abs(y[:, None] - splats["means"][:, 1].numpy()).argmin(axis=0)
    # As in the PLY: all coefficients of red, then of green, then of blue.
    green = (data["sh"]["f_rest_9"].astype(np.float32) + 0.5) / 32 - 4
    np.testing.assert_allclose(green[nearest], splats["shN"][:, 1, 1], atol=0.51 / 32)


@needs_gsply
@pytest.mark.parametrize("kind", KINDS)
def test_extremes_stay_finite_and_broken_gaussians_harm_no_others(tmp_path, kind):
    splats = some_splats(count=300)
    splats["opacities"][:2] = torch.tensor([-40.0, 40.0])
    splats["means"][5, 1] = torch.nan
    write_splats(tmp_path / f"s{SUFFIXES[kind]}", splats, kind)
    back = read_splats(tmp_path / f"s{SUFFIXES[kind]}")
    assert len(back["means"]) == 299
    whole = torch.arange(300) != 5
    assert torch.cdist(splats["means"][whole], back["means"]).amin(dim=1).max() < 5e-3


def test_the_grid_of_spz_follows_the_scene():
    inside = torch.rand(1000, 3) * 0.9
    assert fractional_bits(inside) == 23
    assert fractional_bits(inside * 100) == 16
    floater = torch.tensor([[0.0, -1e5, 0.0]])
    assert fractional_bits(torch.cat([inside, floater])) == 12
    assert fractional_bits(inside + 1e5) == 6
    assert fractional_bits(torch.zeros(3, 3)) == 23
    for means in (inside, inside * 100, inside + 1e5, torch.tensor([[2.0**11, 0, 0]])):
        assert means.abs().max() * 2 ** fractional_bits(means) <= 2**23


def test_chunks_are_compact_and_hold_everybody_once():
    points = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
    order = _in_chunks(points)
    assert sorted(order.tolist()) == list(range(5000))
    sizes = [np.ptp(points[order[i : i + 256]], axis=0).prod() for i in range(0, 5000, 256)]
    assert np.median(sizes) < 0.05 * np.ptp(points, axis=0).prod()


@needs_gsply
@pytest.mark.parametrize("kind", KINDS)
def test_broken_files_give_one_clear_error(tmp_path, kind):
    file = tmp_path / f"s{SUFFIXES[kind]}"
    write_splats(file, some_splats(count=300, degree=1), kind)
    whole = file.read_bytes()
    for content in (b"", whole[:3], whole[:30], whole[: len(whole) // 2], whole[:-1], b"x" * 500):
        file.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            read_splats(file)


@needs_gsply
def test_version_4_of_spz_is_read_and_checked(tmp_path):
    import gsply

    splats = some_splats(count=300, degree=1)
    write_splats(tmp_path / "s.spz", splats, "spz")
    gsply.write_spz(tmp_path / "new.spz", gsply.read_spz(tmp_path / "s.spz"), version=4, fractional_bits=23)
    back, newer = read_splats(tmp_path / "s.spz"), read_splats(tmp_path / "new.spz")
    for name in NAMES:
        torch.testing.assert_close(newer[name], back[name], rtol=0, atol=2e-3)
    whole = bytearray((tmp_path / "new.spz").read_bytes())
    whole[32 + 6 * 16 : 32 + 6 * 16 + 8] = b"\xff" * 8  # the first stream, after header and table of contents
    (tmp_path / "new.spz").write_bytes(whole)
    with pytest.raises(InputError, match="cannot be read"):
        read_splats(tmp_path / "new.spz")


def test_without_gsply_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gsply", None)
    (tmp_path / "s.spz").write_bytes(b"NGSP")
    header = (
        "ply\nformat ascii 1.0\nelement chunk 0\nproperty float min_x\nelement vertex 0\nproperty uint packed_position"
    )
    (tmp_path / "s.ply").write_text(f"{header}\nend_header\n")
    install = r"gsply: pip install 'harmonizer-ns\[splats\]'"
    for call in (
        lambda: read_splats(tmp_path / "s.spz"),
        lambda: read_splats(tmp_path / "s.ply"),
        lambda: write_splats(tmp_path / "o.spz", some_splats(), "spz"),
    ):
        with pytest.raises(InputError, match=install):
            call()
    assert not (tmp_path / "o.spz").exists()


@needs_gsply
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    import gsply

    def full(path, data, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gsply, "write_spz", full)
    write_splats(tmp_path / "s.ply", some_splats())
    with pytest.raises(InputError, match=r"cannot write .*s\.spz.*No space left"):
        write_splats(tmp_path / "s.spz", some_splats(), "spz")
    assert [file.name for file in tmp_path.iterdir()] == ["s.ply"]
