# SPDX-License-Identifier: Apache-2.0
"""gsplat draws on a GPU with CUDA kernels, which come compiled or which nvcc compiles at their first use, for minutes.

Without both, gsplat 1.4 fails at the first render with an AttributeError; here it is said before, with what to do.
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import cache
from pathlib import Path

import torch

from harmonizer_ns.errors import InputError, first_line
from harmonizer_ns.raster.threads import give_cores_to_the_rasterizer


def prepare_rasterizer(device: torch.device | str) -> None:
    """Get ready to draw splats on a device: a GPU has kernels, a CPU has its cores.

    Raises:
        InputError: when a GPU has no kernels and cannot get any.
    """
    if torch.device(device).type == "cuda":
        load_gsplat_kernels()
    elif torch.device(device).type == "cpu":
        give_cores_to_the_rasterizer()


@cache
def load_gsplat_kernels() -> None:
    """Load gsplat's kernels, compiled first where they are not yet, which is said; once in a process.

    Raises:
        InputError: when there is no compiler, or it fails.
    """
    if _come_compiled():
        return
    if not _found_nvcc():
        raise InputError(f"gsplat has no compiled CUDA kernels here, and no nvcc to compile them with; {_remedies()}")
    if not _were_compiled():
        print("gsplat compiles its CUDA kernels, which takes some minutes, once", file=sys.stderr, flush=True)
    try:
        from gsplat.cuda._backend import _C  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:  # of torch's extension builder: a compiler's, ninja's, a wrong version of CUDA
        raise InputError(f"gsplat's CUDA kernels cannot be compiled: {first_line(error)}; {_remedies()}") from error
    if _C is None:
        raise InputError(f"gsplat found no nvcc to compile its CUDA kernels with; {_remedies()}")


def kernels_found() -> str:
    """Say in words what `load_gsplat_kernels` will find; nothing is compiled.

    Raises:
        InputError: when there are no kernels, and no compiler for them.
    """
    if _come_compiled():
        return "gsplat came with them"
    if not _found_nvcc():
        raise InputError(f"there are none, and no nvcc to compile them with; {_remedies()}")
    return "compiled before" if _were_compiled() else "nvcc will compile them at their first use, for some minutes"


def _remedies() -> str:
    return (
        f"install the CUDA toolkit {torch.version.cuda}, torch's version, with nvcc on PATH or CUDA_HOME set, or work "
        "on the CPU with --device cpu (ns-train: --machine.device-type cpu)"
    )


def _come_compiled() -> bool:
    """Whether gsplat was installed with its kernels, and they load."""
    try:
        from gsplat import csrc  # noqa: F401  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        return False
    return True


def _found_nvcc() -> bool:
    """Whether there is nvcc. gsplat looks for it on PATH only, torch in CUDA_HOME as well: that comes to PATH's end."""
    from torch.utils.cpp_extension import CUDA_HOME

    if shutil.which("nvcc") is None and CUDA_HOME is not None:
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), str(Path(CUDA_HOME) / "bin")])
    return shutil.which("nvcc") is not None


def _were_compiled() -> bool:
    """Whether an earlier process left compiled kernels where torch keeps them."""
    from torch.utils.cpp_extension import _get_build_directory

    return any(Path(_get_build_directory("gsplat_cuda", verbose=False)).glob("gsplat_cuda.*"))
