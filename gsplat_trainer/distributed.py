# SPDX-License-Identifier: Apache-2.0
"""Several processes work on one scene, each holding part of the Gaussians (gsplat's distributed mode).

Rendering in that mode needs all ranks at once, and a repair is long: the first rank collects the whole scene, repairs
alone, and then all ranks add the same pseudo-views.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from harmonizer_ns.distill.repairs import Repairs
from harmonizer_ns.distill.rounds import Progress, RoundReport
from harmonizer_ns.splats.model import NAMES


@dataclass(frozen=True)
class World:
    """Tells which process this is among all.

    Args:
        rank: of this process.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process repairs, measures and writes."""
        return self.rank == 0

    def gather(self, splats: Any) -> dict[str, Tensor] | None:
        """Collect the whole scene on the first rank, in the ranks' order; None elsewhere. All ranks must call it."""
        mine = {name: splats[name].detach() for name in NAMES}
        if self.size == 1:
            return mine
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, {name: value.cpu() for name, value in mine.items()})
        device = mine["means"].device
        if not self.is_first:
            return None
        return {name: torch.cat([part[name] for part in parts]).to(device) for name in NAMES}

    def share(self, value: Any) -> Any:
        """Give the first rank's value to all ranks. All ranks must call it."""
        if self.size == 1:
            return value
        box = [value if self.is_first else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank. All ranks must call it."""
        if self.size == 1:
            return flag
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        votes = torch.tensor(int(flag), device=device)
        dist.all_reduce(votes)
        return bool(votes)

    def average(self, values: Iterable[Tensor]) -> None:
        """Replace tensors by their means over all ranks. All ranks must call it, with tensors of the same shapes."""
        if self.size == 1:
            return
        for value in values:
            dist.all_reduce(value)
            value /= self.size


def run_round(world: World, repairs: Repairs, step: int, progress: Progress = iter) -> RoundReport | None:
    """Run one round of repairs on the first rank, whose pseudo-views all ranks then hold. All ranks must call it.

    Returns:
        The report on the first rank, None elsewhere.

    Raises:
        Exception: whatever the first rank's round raises, there; the other ranks raise RuntimeError.
    """
    if world.size == 1:
        return repairs.run(step, progress)
    report, views, failure = None, None, None
    if world.is_first:
        try:
            report = repairs.run(step, progress)
            stored = [] if report.failure else repairs.store.stored
            views = None if report.failure else [view for view in stored if view.step == step]
        except Exception as error:  # told to the others below, which would wait forever otherwise
            failure = error
    reason, views = world.share((None if failure is None else repr(failure), views))
    if failure is not None:
        raise failure
    if reason is not None:
        raise RuntimeError(f"the repair on rank 0 failed: {reason}")
    if not world.is_first:
        repairs.skip(step) if views is None else repairs.adopt(step, views)
    return report
