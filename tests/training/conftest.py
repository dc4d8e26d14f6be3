# SPDX-License-Identifier: Apache-2.0
"""Sample files as the data synthesis writes them, tiny: a blurred render of noise, photos that see the truth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from harmonizer_ns.images import to_uint8


def sample_tensors(references: int = 2, height: int = 48, width: int = 64, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator)
    target = F.interpolate(coarse, (height, width), mode="bilinear")
    blurred = F.avg_pool2d(target, 9, 1, 4, count_include_pad=False)
    # Only the right part is damaged, so that there is a good half.
    damage = (torch.arange(width) / width - 0.3).clamp(0, 1)
    render = torch.lerp(target, blurred, damage)
    intrinsics = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    pose = torch.eye(4).repeat(1 + references, 1, 1)
    pose[:, 0, 3] = torch.arange(1 + references) * 0.1
    return {
        "render": to_uint8(render[0]),
        "target": to_uint8(target[0]),
        "alpha": torch.full((1, height, width), 255, dtype=torch.uint8),
        "depth": torch.rand(1, height, width, generator=generator).half() + 2,
        "warps": to_uint8(target).repeat(references, 1, 1, 1),
        "valid": torch.full((references, 1, height, width), 255, dtype=torch.uint8),
        "previous": to_uint8(torch.cat([target, render])),
        "previous_valid": torch.full((2, 1, height, width), 255, dtype=torch.uint8),
        "camera_to_world": pose,
        "intrinsics": intrinsics.repeat(1 + references, 1, 1),
    }


def write_samples(folder: Path, scenes: int = 3, **kwargs: int) -> Path:
    for scene in range(scenes):
        name = f"scene{scene}"
        (folder / name).mkdir(parents=True)
        split = "train" if scene < scenes - 1 else "test"
        metadata = {"scene": name, "recipe": "sparse", "split": split}
        tensors = sample_tensors(seed=scene, **kwargs)
        save_file(
            {k: v.contiguous() for k, v in tensors.items()}, str(folder / name / "sparse_0.safetensors"), metadata
        )
    return folder


@pytest.fixture(name="sample_tensors")
def sample_tensors_fixture():
    return sample_tensors


@pytest.fixture(name="write_samples")
def write_samples_fixture():
    return write_samples
