# SPDX-License-Identifier: Apache-2.0
"""Where to compute, and in which precision: one word for each, the same in every command and configuration."""

from __future__ import annotations

from typing import Any, Literal

import torch

from harmonizer_ns.errors import InputError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
AMPERE = (8, 0)
"""Compute capability of the first cards with bfloat16."""
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> str:
    """The device that an option names; "auto" is the GPU when there is one.

    Raises:
        InputError: when there is no GPU to use.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {name}: torch finds no GPU here; --device cpu works everywhere")
    return name


def choose_dtype(name: Precision, device: torch.device | str) -> torch.dtype:
    """The number type that a precision names; "auto" is a GPU's own half precision, and float32 elsewhere.

    That is bfloat16 from Ampere on. Older cards only emulate it, and compute in float16.
    """
    if name != "auto":
        return DTYPES[name]
    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= AMPERE else torch.float16


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU or the machine has no memory left, in any of torch's words for it."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def compiled(step: Any) -> Any:
    """A step compiled for every shape anew; with CUDA graphs on a GPU, whose next replay writes over its results."""
    mode = "reduce-overhead" if torch.cuda.is_available() else "default"
    return torch.compile(step, mode=mode, dynamic=False)


def sent(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor on a device. Nobody waits for a copy to a GPU, which is in time for the GPU's own work."""
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


def on_device(state: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    """The same state with its tensors moved to a device."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in state.items()}
