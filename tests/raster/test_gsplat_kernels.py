# SPDX-License-Identifier: Apache-2.0
"""A GPU without gsplat's kernels, as far as a machine without one can tell."""

import sys
from copy import deepcopy
from types import SimpleNamespace

import pytest

from gsplat_trainer.__main__ import launch
from gsplat_trainer.config import DefaultConfig
from harmonizer_ns.errors import InputError
from harmonizer_ns.plugin.method import harmonize
from harmonizer_ns.raster.gsplat_kernels import load_gsplat_kernels, prepare_rasterizer

BUILT = "gsplat.cuda._backend"


@pytest.fixture(autouse=True)
def gpu_without_compiler(monkeypatch, tmp_path):
    """gsplat from PyPI, no nvcc, nothing compiled before."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.version.cuda", "12.8")
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    monkeypatch.setattr("torch.utils.cpp_extension._get_build_directory", lambda name, verbose: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gsplat.csrc", None)
    load_gsplat_kernels.cache_clear()
    yield
    load_gsplat_kernels.cache_clear()


@pytest.fixture
def toolkit(monkeypatch, tmp_path):
    """A CUDA toolkit that is not on PATH."""
    nvcc = tmp_path / "toolkit" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch(0o755)
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", str(tmp_path / "toolkit"))


def test_whoever_draws_splats_is_told_both_remedies_before_anything_is_read(tmp_path):
    plugin = deepcopy(harmonize.config.pipeline)
    for begin in (
        lambda: prepare_rasterizer("cuda"),
        lambda: launch(DefaultConfig(data_dir=tmp_path / "absent", device="cuda")),
        lambda: plugin.setup(device="cuda"),
    ):
        with pytest.raises(InputError, match=r"no nvcc.*toolkit 12\.8.*--device cpu.*--machine\.device-type cpu"):
            begin()
    prepare_rasterizer("cpu")


def test_compiling_is_said_once_and_nvcc_is_found_where_torch_finds_it(toolkit, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, BUILT, SimpleNamespace(_C=object()))
    prepare_rasterizer("cuda")
    prepare_rasterizer("cuda:1")
    assert capsys.readouterr().err.count("takes some minutes") == 1
    load_gsplat_kernels.cache_clear()
    (tmp_path / "gsplat_cuda.so").touch()
    prepare_rasterizer("cuda")
    assert capsys.readouterr().err == ""


class Failing:
    def __getattr__(self, name):
        raise RuntimeError("\nthe detected CUDA version (11.8) mismatches\nmuch more")


class Missing:
    _C = None


@pytest.mark.parametrize(("built", "message"), [(Failing, r"11\.8\) mismatches; install"), (Missing, "found no nvcc")])
def test_a_compiler_that_fails_is_told_in_one_line(toolkit, monkeypatch, built, message):
    monkeypatch.setitem(sys.modules, BUILT, built())
    with pytest.raises(InputError, match=message):
        prepare_rasterizer("cuda")


def test_kernels_that_came_with_gsplat_need_no_compiler(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat.csrc", SimpleNamespace())
    prepare_rasterizer("cuda")
