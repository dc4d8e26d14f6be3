# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: NPY002 - the global generator is what is tested
import io
import random

import numpy as np
import torch

from harmonizer_ns.random_state import NUMPY_SCALARS, random_state, seed_all, set_random_state


def drawn():
    return random.random(), np.random.rand(), torch.rand(()).item()


def saved(state):
    """As a checkpoint gives it back, read without running code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_every_generator_goes_on_where_it_was():
    seed_all(3)
    random.gauss(0, 1), np.random.randn()  # both keep a second number for later
    state = saved(random_state())
    wanted = drawn(), random.gauss(0, 1), np.random.randn()
    seed_all(4)
    set_random_state(state)
    assert (drawn(), random.gauss(0, 1), np.random.randn()) == wanted
    seed_all(3)
    first = drawn()
    seed_all(3)
    assert drawn() == first


def test_states_of_earlier_versions_are_taken():
    seed_all(5)
    state = {"torch": torch.get_rng_state(), "cuda": [torch.zeros(16, dtype=torch.uint8)]}
    wanted = torch.rand(())
    before = random.getstate()
    if not torch.cuda.is_available():
        set_random_state(state)
        assert torch.equal(torch.rand(()), wanted)
    assert random.getstate() == before


def test_numpy_scalars_are_read_without_running_code():
    file = io.BytesIO()
    torch.save({"rate": np.float64(0.5), "step": np.int64(7)}, file)
    file.seek(0)
    with torch.serialization.safe_globals(NUMPY_SCALARS):
        assert torch.load(file, weights_only=True) == {"rate": 0.5, "step": 7}
