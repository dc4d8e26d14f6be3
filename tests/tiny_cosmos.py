# SPDX-License-Identifier: Apache-2.0
"""A Cosmos network small enough for tests, with weights that make every part of it matter."""

import json
from pathlib import Path
from typing import Any

import torch

from harmonizer_ns.enhancers.cosmos.network import CosmosNetwork

CONFIGS = Path(__file__).parent.parent / "configs"


def config(name: str = "harmonizer-tiny", **changes: Any) -> dict[str, Any]:
    return {**json.loads((CONFIGS / f"{name}.json").read_text()), **changes}


def network(**changes: Any) -> CosmosNetwork:
    torch.manual_seed(0)
    result = CosmosNetwork.from_config(config(**changes)).eval()
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        result.transformer.proj_out.weight.mul_(3)
    return result


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    """Smooth random images in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator) * 2 - 1
