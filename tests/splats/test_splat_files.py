# SPDX-License-Identifier: Apache-2.0
"""Splats in files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement
from toy import arc_cameras, write_points

from gsplat_trainer import checkpoint
from harmonizer_ns.errors import InputError
from harmonizer_ns.splats.files import read_splats, write_splats
from harmonizer_ns.splats.model import NAMES, SPLATFACTO
from harmonizer_ns.splats.rendering import SplatRenderer


def some_splats(count=7, degree=2):
    g = torch.Generator().manual_seed(0)
    shapes = {"means": (3,), "scales": (3,), "quats": (4,), "opacities": (), "sh0": (1, 3)}
    shapes["shN"] = ((degree + 1) ** 2 - 1, 3)
    return {name: torch.randn(count, *shape, generator=g) for name, shape in shapes.items()}


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_ply_round_trip(tmp_path, degree):
    splats = some_splats(degree=degree)
    write_splats(tmp_path / "s.ply", splats)
    back = read_splats(tmp_path / "s.ply")
    assert all(torch.equal(back[name], splats[name]) for name in NAMES)


def test_ply_has_the_standard_properties(tmp_path):
    splats = some_splats(degree=3)
    write_splats(tmp_path / "s.ply", splats)
    vertex = PlyData.read(str(tmp_path / "s.ply"))["vertex"]
    names = [item.name for item in vertex.properties]
    assert names == [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(45)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]
    # Kerbl et al. store all coefficients of red, then of green, then of blue.
    np.testing.assert_array_equal(vertex["f_rest_16"], splats["shN"][:, 1, 1].numpy())


def test_ply_without_harmonics_has_degree_0(tmp_path):
    write_splats(tmp_path / "s.ply", some_splats(degree=1))
    rows = PlyData.read(str(tmp_path / "s.ply"))["vertex"].data
    kept = [name for name in rows.dtype.names if not name.startswith("f_")]
    kinds = [(name, "f4") for name in kept] + [(name, "u1") for name in ("red", "green", "blue")]
    plain = np.zeros(len(rows), dtype=kinds)
    for name in kept:
        plain[name] = rows[name]
    plain["green"] = 255
    PlyData([PlyElement.describe(plain, "vertex")]).write(str(tmp_path / "rgb.ply"))
    splats = read_splats(tmp_path / "rgb.ply")
    assert splats["shN"].shape == (7, 0, 3)
    torch.testing.assert_close(splats["sh0"][:, 0] * 0.28209479 + 0.5, torch.tensor([[0.0, 1.0, 0.0]]).expand(7, 3))


MEANT = [("opacities", torch.inf), ("opacities", -torch.inf), ("scales", -torch.inf)]


@pytest.mark.parametrize("suffix", ["ply", "pt"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in NAMES
            for value in (torch.nan, torch.inf, -torch.inf)
            if (name, value) not in MEANT
        ),
        *((name, 2e15) for name in ("means", "quats", "sh0", "shN")),
        ("scales", 50.0),  # squares overflow
        ("quats", 0.0),
    ],
)
def test_gaussians_that_cannot_be_drawn_are_left_out_and_counted(tmp_path, caplog, name, value, suffix):
    splats = some_splats()
    if name == "quats":
        splats[name][2] = value
    else:
        splats[name].flatten(0)[-1 - 4 * splats[name][0].numel()] = value
    file = written(tmp_path / f"s.{suffix}", splats)
    back = read_splats(file)
    kept = torch.arange(7) != 2
    assert all(torch.equal(back[key], splats[key][kept]) for key in NAMES)
    assert f"{file}: 1 of 7 Gaussians are left out: {name} of 1" in caplog.text


def written(file, splats):
    if file.suffix == ".pt":
        checkpoint.save_gsplat(file, 7, splats)
    else:
        write_splats(file, splats)
    return file


@pytest.mark.parametrize("suffix", ["ply", "pt"])
def test_opaque_clear_and_flat_gaussians_are_kept(tmp_path, caplog, suffix):
    splats = some_splats()
    splats["opacities"][:3] = torch.tensor([torch.inf, torch.inf, -torch.inf])
    splats["scales"][1:4, 2] = -torch.inf
    splats["scales"][4] = -torch.inf
    back = read_splats(written(tmp_path / f"s.{suffix}", splats))
    assert not caplog.text
    assert len(back["means"]) == 7
    assert all(torch.isfinite(value).all() for value in back.values())
    torch.testing.assert_close(back["opacities"][:3].sigmoid(), torch.tensor([1.0, 1.0, 0.0]), rtol=0, atol=1e-6)
    assert back["scales"][1:4, 2].exp().max() < 1e-9
    assert torch.equal(back["scales"][:, :2][[0, 1, 2, 3, 5, 6]], splats["scales"][:, :2][[0, 1, 2, 3, 5, 6]])


def test_opaque_and_flat_gaussians_are_drawn_as_what_they_nearly_are(tmp_path):
    splats = some_splats(count=40, degree=0)
    splats["scales"] -= 2
    nearly = {name: value.clone() for name, value in splats.items()}
    splats["opacities"][::2], nearly["opacities"][::2] = torch.inf, 12.0
    splats["scales"][::3, 0], nearly["scales"][::3, 0] = -torch.inf, -15.0
    camera = arc_cameras(1, 32, 24, span=2.5)
    drawn = SplatRenderer(read_splats(written(tmp_path / "s.ply", splats))).render(camera)
    wanted = SplatRenderer(nearly).render(camera)
    torch.testing.assert_close(drawn.rgb, wanted.rgb, rtol=0, atol=1e-3)
    assert drawn.alpha.mean() > 0.05


def ranks(folder, splats, step=29, count=3):
    folder.mkdir(exist_ok=True)
    for rank in range(count):
        part = {name: value[rank::count] for name, value in splats.items()}
        checkpoint.save_gsplat(checkpoint.gsplat_path(folder, step, rank), step, part)
    return [checkpoint.gsplat_path(folder, step, rank) for rank in range(count)]


def rows(splats):
    return sorted(splats["means"].tolist())


def test_one_rank_of_a_gsplat_run_brings_the_others_with_it(tmp_path, caplog):
    splats = some_splats(count=20)
    files = ranks(tmp_path / "ckpts", splats, count=12)
    ranks(tmp_path / "ckpts", some_splats(), step=9, count=1)
    ranks(tmp_path / "ckpts", some_splats(), step=2)
    for given in ([files[0]], [files[11]], files, [files[3], files[1], files[3]]):
        caplog.clear()
        back = read_splats(*given)
        assert rows(back) == rows(splats)
        assert ("one scene in 12 files" in caplog.text) == (len(given) < 12)
    assert len(read_splats(tmp_path / "ckpts" / "ckpt_9_rank0.pt")["means"]) == 7
    files[4].unlink()
    with pytest.raises(InputError, match=r"ckpt_29_rank5\.pt is a part of a scene.*ckpt_29_rank4\.pt is missing"):
        read_splats(files[5])
    files[0].unlink()
    with pytest.raises(InputError, match=r"ckpt_29_rank0\.pt is missing"):
        read_splats(files[11])
    with pytest.raises(InputError, match="no file"):
        read_splats(tmp_path / "ckpts" / "ckpt_9_rank1.pt")


def test_several_files_of_any_kind_are_one_scene_and_each_counts_once(tmp_path, monkeypatch):
    first, second = some_splats(count=5, degree=2), some_splats(count=4, degree=1)
    second["means"] += 3
    files = [written(tmp_path / "a.ply", first), written(tmp_path / "b.pt", second)]
    monkeypatch.chdir(tmp_path)
    back = read_splats(*files, Path("a.ply"))
    assert torch.equal(back["means"], torch.cat([first["means"], second["means"]]))
    assert torch.equal(back["shN"][:5], first["shN"])
    assert torch.equal(back["shN"][5:, :3], second["shN"])
    assert not back["shN"][5:, 3:].any()


def test_a_ply_of_nothing_is_refused(tmp_path):
    write_splats(tmp_path / "s.ply", {name: value[:0] for name, value in some_splats().items()})
    with pytest.raises(InputError, match="no Gaussian"):
        read_splats(tmp_path / "s.ply")


def test_gsplat_and_splatfacto_checkpoints(tmp_path):
    splats = some_splats()
    checkpoint.save_gsplat(tmp_path / "g.pt", 7, splats)
    state = torch.load(tmp_path / "g.pt", weights_only=True)
    assert state["step"] == 7
    assert set(state["splats"]) == set(NAMES)
    assert all(torch.equal(read_splats(tmp_path / "g.pt")[name], splats[name]) for name in NAMES)


def splatfacto(splats, prefix="_model.gauss_params."):
    flat = {**splats, "opacities": splats["opacities"][:, None], "sh0": splats["sh0"][:, 0]}
    return {f"{prefix}{SPLATFACTO[name]}": value for name, value in flat.items()}


@pytest.mark.parametrize("prefix", ["_model.gauss_params.", "_model.", "_model.module.gauss_params."])
def test_splatfacto_checkpoints_of_today_of_1_0_0_and_of_several_gpus(tmp_path, prefix):
    splats = some_splats()
    pipeline = {**splatfacto(splats, prefix), "_model.camera_optimizer.pose_adjustment": torch.zeros(2, 6)}
    torch.save({"step": 1, "pipeline": pipeline, "scalar": np.float64(1.0)}, tmp_path / "step.ckpt")
    back = read_splats(tmp_path / "step.ckpt")
    assert all(torch.equal(back[name], splats[name]) for name in NAMES)


WRONG = {
    "a list": [1.0, 2.0],
    "nothing": None,
    "text": "means",
    "a number": 3.0,
    "a scalar": torch.tensor(1.0),
    "whole numbers": torch.ones(7, 3, dtype=torch.int64),
    "complex": torch.ones(7, 3, dtype=torch.complex64),
    "sparse": torch.eye(7, 3).to_sparse(),
    "no memory": torch.ones(7, 3, device="meta"),
    "one number for millions": torch.ones(1).expand(10_000_000, 3),
    "another rank": torch.ones(7, 3, 1, 1),
    "another count": torch.ones(5, 3),
    "another width": torch.ones(7, 5),
    "a vector": torch.ones(7),
    "a vector of other length": torch.ones(11),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("name", NAMES)
def test_damaged_layouts_of_checkpoints_give_one_error_that_names_the_tensor(tmp_path, name, what):
    splats = some_splats()
    torch.save({"splats": {**splats, name: WRONG[what]}}, tmp_path / "g.pt")
    key = f"_model.gauss_params.{SPLATFACTO[name]}"
    torch.save({"pipeline": {**splatfacto(splats), key: WRONG[what]}}, tmp_path / "step.ckpt")
    for file in ("g.pt", "step.ckpt"):
        if what == "a vector" and name == "opacities":
            continue
        with pytest.raises(InputError, match=rf"{file}: ") as caught:
            read_splats(tmp_path / file)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[], None, {1: 2}, {"splats": [1]}, {"splats": {1: 2, "x": 3}}, {"pipeline": "x"}])
def test_checkpoints_of_another_layout_are_refused(tmp_path, content):
    for file in ("g.pt", "step.ckpt"):
        torch.save(content, tmp_path / file)
        with pytest.raises(InputError, match="is not a checkpoint of"):
            read_splats(tmp_path / file)


class Hostile:
    def __reduce__(self):
        return (print, ("run",))


def test_bad_files_give_one_clear_error(tmp_path):
    (tmp_path / "broken.ply").write_bytes(b"ply\nformat binary_little_endian 1.0\nelement vertex 9\n")
    write_points(tmp_path / "points.ply", torch.rand(4, 3), torch.rand(4, 3))
    torch.save({"step": 1, "splats": {"means": torch.rand(3, 3), "features": torch.rand(3, 8)}}, tmp_path / "other.pt")
    torch.save({"splats": Hostile()}, tmp_path / "hostile.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:300])
    for name, match in (
        ("broken.ply", "cannot be read as a PLY"),
        ("points.ply", "not a PLY of splats: it has no opacity"),
        ("other.pt", r"'features'.*expected"),
        ("hostile.pt", "was refused"),
        ("cut.pt", "not a whole torch checkpoint"),
        ("missing.ply", "there is no file"),
        ("missing.spz", "there is no file"),
        ("splats.obj", r"read from \.ply"),
    ):
        with pytest.raises(InputError, match=match):
            read_splats(tmp_path / name)


def test_far_splats_keep_their_precision_in_a_ply(tmp_path):
    splats = some_splats()
    origin = torch.tensor([458123.0, 5432345.0, 120.0], dtype=torch.float64)
    write_splats(tmp_path / "far.ply", splats, origin=origin)
    stored = PlyData.read(tmp_path / "far.ply")["vertex"]
    assert stored["y"].dtype == np.float64
    assert abs(stored["y"].mean() - 5432345.0) < 3
    back = read_splats(tmp_path / "far.ply", origin=origin)
    torch.testing.assert_close(back["means"], splats["means"], atol=1e-6, rtol=0)
    assert all(value.dtype == torch.float32 for value in back.values())
    write_splats(tmp_path / "near.ply", splats)  # splats that count from the origin already are left where they are
    torch.testing.assert_close(read_splats(tmp_path / "near.ply", origin=origin)["means"], splats["means"])
