# SPDX-License-Identifier: Apache-2.0
"""This loss punishes what changes from frame to frame although it only moved with the scene."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harmonizer_ns.flow import Flow, depth_flow, raft_flow, warp_by_flow
from harmonizer_ns.training.pairs_data.batch import PairBatch


def warp_loss(output: Float[Tensor, "b 3 h w"], previous: Float[Tensor, "b 3 h w"], motion: Flow) -> Float[Tensor, ""]:
    """Compute ``sum_p m(p) |E_t(p) - E_{t-1}(p + f(p))|^2 / (3 sum_p m(p))``, averaged over images.

    ``f`` and ``m`` are the flow from frame t to frame t-1 and its validity. An image without valid pixels counts 0.

    Args:
        output: the enhanced frame, E_t.
        previous: the enhanced frame before it, E_{t-1}; gradients pass to it too unless it is detached.
        motion: the true one, from the current frame to the previous one (`true_motion`).
    """
    error = (output - warp_by_flow(previous, motion.offset)).square().mean(1, keepdim=True) * motion.valid
    return (error.sum((1, 2, 3)) / motion.valid.sum((1, 2, 3)).clamp(min=1)).mean()


@torch.no_grad()
def true_motion(current: PairBatch, previous: PairBatch, raft: nn.Module | None = None) -> Flow:
    """Find the flow from each current frame to the one before it.

    Exact where a pair has depth and cameras; for other pairs RAFT's, between the targets; without RAFT they have none.

    Args:
        current: single views (`PairBatch.frame`).
        previous: the frames before them.
        raft: from `harmonizer_ns.flow.load_raft`.
    """
    motion = depth_flow(current.depth, current.cameras(), previous.depth, previous.cameras())
    missing = ~(current.depth > 0).flatten(1).any(1)
    if raft is None or not missing.any():
        return motion
    estimated = raft_flow(raft, current.target[missing], previous.target[missing])
    offset, valid = motion.offset.clone(), motion.valid.clone()
    offset[missing], valid[missing] = estimated.offset.to(offset.dtype), estimated.valid
    return Flow(offset, valid)
