# SPDX-License-Identifier: Apache-2.0
import json
from types import SimpleNamespace

import pytest
import torch

from harmonizer_ns.cli import doctor
from harmonizer_ns.cli.main import COMMANDS, main
from harmonizer_ns.errors import InputError
from harmonizer_ns.raster import gsplat_kernels


def examined(capsys):
    main(["doctor", "--json"])
    return json.loads(capsys.readouterr().out)


def test_every_command_is_examined():
    lists = {"doctor", "enhancers"}  # need nothing
    examined = {name.removeprefix("harmonizer ") for name in doctor.USES if name.startswith("harmonizer ")}
    assert examined == set(COMMANDS) - lists


def pretend(monkeypatch, requirements, installed):
    """Let the package ask for requirements, and the machine have versions."""
    extras = sorted({line.split('extra == "')[1].rstrip('"') for line in requirements if "extra ==" in line})
    monkeypatch.setattr(doctor, "requires", lambda name: requirements)
    monkeypatch.setattr(doctor, "metadata", lambda name: SimpleNamespace(get_all=lambda field: extras))

    def version(name):
        if name not in installed:
            raise doctor.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(doctor, "version", version)


def test_what_is_missing_or_old_is_told_with_the_line_that_installs_it(monkeypatch, capsys):
    requirements = [
        "torch<3,>=2.6",
        "viser<1,>=0.2.7",
        'hypothesis<7,>=6; extra == "selftest"',
        'harmonizer-ns[splats]; extra == "selftest"',
        'gsply<1,>=0.4; extra == "splats"',
        'mitsuba<4,>=3.5; extra == "synthesis"',
        'tomli; python_version < "3.0" and extra == "synthesis"',
    ]
    pretend(monkeypatch, requirements, {"torch": "2.5.0", "viser": "0.2.7", "hypothesis": "6.1", "mitsuba": "3.7"})
    found = examined(capsys)
    assert found["to mend"] == ["pip install 'torch<3,>=2.6'"]
    assert found["extras"] == {
        "selftest": "missing: pip install 'harmonizer-ns[selftest]'",  # by way of splats
        "splats": "missing: pip install 'harmonizer-ns[splats]'",
        "synthesis": "installed",
    }
    assert found["commands"]["harmonizer view"].endswith("needs pip install 'harmonizer-ns[splats]'")
    assert found["commands"]["harmonizer scenes"] == "ready"
    assert found["versions"]["gsplat"] == "missing"


def test_two_opencvs_are_told(monkeypatch, capsys):
    pretend(monkeypatch, [], {"opencv-python": "5.0.0", "opencv-python-headless": "4.10.0"})
    (line,) = examined(capsys)["to mend"]
    assert line.startswith("pip uninstall opencv-python opencv-python-headless; pip install")


def test_a_machine_without_a_gpu_says_why(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in examined(capsys)["device"]
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "no GPU or driver" in examined(capsys)["device"]


@pytest.mark.parametrize("nvcc", [True, False])
def test_a_gpu_is_named_and_its_kernels_looked_for(monkeypatch, capsys, nvcc):
    gpu = SimpleNamespace(name="RTX 3090", total_memory=24 * 2**30, major=8, minor=6)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: gpu)
    monkeypatch.setattr(gsplat_kernels, "_come_compiled", lambda: False)
    monkeypatch.setattr(gsplat_kernels, "_found_nvcc", lambda: nvcc)
    monkeypatch.setattr(gsplat_kernels, "_were_compiled", lambda: False)
    found = examined(capsys)
    assert found["device"].startswith("RTX 3090, 24 GiB, compute 8.6; ")
    assert ("nvcc will compile" if nvcc else "install the CUDA toolkit") in found["gsplat's CUDA kernels"]


def test_people_read_the_same_in_lines(capsys):
    main(["doctor"])
    printed = capsys.readouterr().out
    for heading in doctor.examine():
        assert f"{heading}:" in printed


def test_no_kernels_and_no_compiler_is_an_error_of_the_user(monkeypatch):
    monkeypatch.setattr(gsplat_kernels, "_come_compiled", lambda: False)
    monkeypatch.setattr(gsplat_kernels, "_found_nvcc", lambda: False)
    with pytest.raises(InputError, match="no nvcc"):
        gsplat_kernels.kernels_found()
