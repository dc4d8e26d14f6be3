# SPDX-License-Identifier: Apache-2.0
"""Runs a function in two processes, for tests of what several do together."""

import multiprocessing
import os
import sys
from collections.abc import Callable

import pytest
import torch


def run_two(member: Callable[..., None], *arguments: object) -> None:
    """Run ``member(rank, *arguments)`` in two processes at a time; what takes long to be imported is so once."""
    multiprocessing.set_forkserver_preload([member.__module__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # where the server looks for it
        torch.multiprocessing.start_processes(member, arguments, nprocs=2, start_method="forkserver")
