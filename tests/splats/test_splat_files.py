# SPDX-License-Identifier: Apache-2.0
"""Splats in files."""

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement
from toy import write_points

from gsplat_trainer import checkpoint
from harmonizer_ns.errors import InputError
from harmonizer_ns.splats.files import read_splats, write_splats
from harmonizer_ns.splats.model import NAMES


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


def test_gaussians_that_are_not_finite_are_dropped(tmp_path):
    splats = some_splats()
    splats["scales"][2, 1] = torch.nan
    write_splats(tmp_path / "s.ply", splats)
    assert len(read_splats(tmp_path / "s.ply")["means"]) == 6


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
    names = {"means": "means", "scales": "scales", "quats": "quats", "sh0": "features_dc", "shN": "features_rest"}
    theirs = {f"_model.gauss_params.{name}": splats[ours] for ours, name in names.items()}
    theirs["_model.gauss_params.opacities"] = splats["opacities"][:, None]
    theirs["_model.gauss_params.features_dc"] = splats["sh0"][:, 0]
    torch.save({"step": 1, "pipeline": theirs, "scalar": np.float64(1.0)}, tmp_path / "step.ckpt")
    for file in ("g.pt", "step.ckpt"):
        back = read_splats(tmp_path / file)
        assert all(torch.equal(back[name], splats[name]) for name in NAMES), file


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
