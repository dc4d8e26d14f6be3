# SPDX-License-Identifier: Apache-2.0
"""The global random generators are seeded here, and their states turned into what checkpoints may hold."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

NUMPY_SCALARS: list[Any] = [
    np.float64(1).__reduce__()[0],
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
]
"""What ``torch.load(weights_only=True)`` must know to read numpy scalars, such as those of nerfstudio's scheduler
states. They hold no code."""


def seed_all(seed: int) -> None:
    """Seed every global generator, as ``ns-train`` does before it builds a trainer."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - nerfstudio draws from it
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Take the states of Python's, numpy's and torch's global generators as tensors, tuples, lists and numbers."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    name, keys, position, has_gauss, cached = numpy_state
    state = {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` took.

    States that a run did not keep, or of CUDA devices that this machine does not have, are left out. Earlier versions
    kept a list for all CUDA devices.
    """
    torch.set_rng_state(state["torch"].cpu())
    if "python" in state:
        random.setstate(python_state(state["python"]))
    if "numpy" in state:
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    if not torch.cuda.is_available() or "cuda" not in state:
        return
    if isinstance(state["cuda"], list):
        for device, value in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(value.cpu(), device)
    else:
        torch.cuda.set_rng_state(state["cuda"].cpu())


def python_state(state: Sequence[Any]) -> tuple[Any, ...]:
    """Make a saved state one that a `random.Random` takes; in checkpoints of earlier versions its tuples are lists."""
    version, internal, gauss = state
    return version, tuple(internal), gauss
