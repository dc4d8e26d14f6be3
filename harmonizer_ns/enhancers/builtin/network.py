# SPDX-License-Identifier: Apache-2.0
"""The built-in network: mix for each pixel the render, smoother versions of it, and candidates warped into its view.

With the render ``r``, its means ``m_s`` over cells of ``s`` pixels (interpolated), candidates ``c_k`` (validity
``v_k``), their detail transfers ``d_k = c_k - blur(c_k - r)`` (the candidate's texture on the render's brightness) and
logits ``a_k, b_k, g_s`` from the network::

    w   = softmax(0, a_k + log v_k, b_k + log v_k, g_s)      one weight for r, c_k, d_k, m_s
    out = r + sum_k w_ak (c_k - r) + w_bk (d_k - r) + sum_s w_s (m_s - r)

About a third of a sparse splat's error differs from one random seed to the next; photos and smoother versions do not
share it, so even a small weight of theirs helps. The same encoder sees every candidate and pooling is symmetric, so
their order does not matter. Biases start so low that the untrained network is the identity up to a few thousandths.
There is no free residual: it would learn the textures of its training scenes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from harmonizer_ns.enhancers.builtin.inputs import CUES, BuiltinInputs
from harmonizer_ns.enhancers.checkpoint import StoredNetwork

MULTIPLE = 16
"""Image sides must be multiples of this (four halvings)."""

SCALES = (2, 4, 8)
"""Sides in pixels of the cells over which the render is averaged; divisors of `MULTIPLE`."""

_BLUR = 8
_LOGIT_SCALE = 4.0  # the logit head learns faster than its small weights would let it
_LOGIT_BIAS = -1.5


@dataclass(frozen=True)
class Choice:
    """What the network decides.

    Args:
        rgb: the repaired image, not clamped.
        confidence: logit of the belief that a pixel is right.
        scores: logits of ``c_k`` and ``d_k`` with their validity, minus infinity where invalid; the render's is 0.
        offset: ``c_k - r``, 0 where invalid.
        low: ``blur(c_k - r)``, so that ``d_k - r = offset - low``.
        smooth_scores: logits of ``m_s``.
        smoothing: ``m_s - r``.
    """

    rgb: Float[Tensor, "n 3 h w"]
    confidence: Float[Tensor, "n 1 h w"]
    scores: Float[Tensor, "n k 2 h w"]
    offset: Float[Tensor, "n k 3 h w"]
    low: Float[Tensor, "n k 3 h w"]
    smooth_scores: Float[Tensor, "n s h w"]
    smoothing: Float[Tensor, "n s 3 h w"]


def _conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=(size - 1) // 2)


class ResidualBlock(nn.Module):
    """``x + conv(relu(conv(relu(x))))``; without normalisation, which would remove brightness."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = _conv(channels, channels)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """One step."""
        return x + self.second(F.relu(self.first(F.relu(x))))


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))


class Trunk(nn.Module):
    """A small U-Net over the pooled features: three scales, summed skips."""

    def __init__(self, channels: tuple[int, int, int], blocks: tuple[int, int, int]) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.fine = _blocks(fine, blocks[0])
        self.to_middle = _conv(fine, middle, stride=2)
        self.middle = _blocks(middle, blocks[1])
        self.to_coarse = _conv(middle, coarse, stride=2)
        self.coarse = _blocks(coarse, blocks[2])
        self.from_coarse = _conv(coarse, middle, 1)
        self.middle_up = _blocks(middle, 1)
        self.from_middle = _conv(middle, fine, 1)
        self.fine_up = _blocks(fine, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Features of the same shape that have seen far around."""
        fine = self.fine(x)
        middle = self.middle(self.to_middle(F.relu(fine)))
        coarse = self.coarse(self.to_coarse(F.relu(middle)))
        middle = self.middle_up(middle + _twice(self.from_coarse(coarse)))
        return self.fine_up(fine + _twice(self.from_middle(middle)))


def _twice(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 2h 2w"]:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class BuiltinNetwork(StoredNetwork):
    """See the module's docstring.

    Args:
        shared: channels at half resolution of what is seen once for each frame.
        candidate: channels at half resolution of what is seen once for each candidate.
        trunk: channels at a quarter, an eighth and a sixteenth of the resolution.
        blocks: residual blocks at these scales on the way down.
        bias_when_shown: added to every logit but the render's where the output is looked at. Calibrated after training:
            how much may change before good pixels suffer.
        bias_when_learned: the same where the output is learned from, calibrated for the loss of who learns.
    """

    architecture = "choice-smooth"
    renamed = {"eagerness": "bias_when_shown", "boldness": "bias_when_learned"}  # noqa: RUF012

    def __init__(
        self,
        shared: int = 32,
        candidate: int = 16,
        trunk: tuple[int, int, int] = (48, 80, 128),
        blocks: tuple[int, int, int] = (1, 1, 2),
        bias_when_shown: float = 0.0,
        bias_when_learned: float = 0.0,
    ) -> None:
        super().__init__()
        self.sizes = {"shared": shared, "candidate": candidate, "trunk": tuple(trunk), "blocks": tuple(blocks)}
        self.bias_when_shown, self.bias_when_learned = bias_when_shown, bias_when_learned
        fine = trunk[0]
        self.shared_stem = _conv(3 + 1 + 3, shared, 4, stride=2)
        self.shared_down = _conv(shared, fine, stride=2)
        self.geometry = _conv(3, fine, 1)
        self.candidate_stem = _conv(3 + 1, candidate, 4, stride=2)
        self.shared_to_candidate = _conv(shared, candidate, 1)
        self.candidate_down = _conv(candidate, 2 * candidate, stride=2)
        self.evidence = _conv(3 + 1 + CUES + 1, 2 * candidate, 1)
        self.merge = _conv(fine + 4 * candidate, fine, 1)
        self.trunk = Trunk(tuple(trunk), tuple(blocks))  # type: ignore[arg-type]
        self.decode_trunk = _conv(fine, shared, 1)
        self.decode = _conv(shared, shared)
        self.base_head = _conv(shared, 4 * (len(SCALES) + 1))
        self.from_decoded = _conv(shared, candidate, 1)
        self.from_candidate = _conv(candidate, candidate, 1)
        self.from_candidate_down = _conv(2 * candidate, candidate, 1)
        self.candidate_head = _conv(candidate, 4 * 2)
        self._start_as_identity()

    def _start_as_identity(self) -> None:
        for head in (self.base_head, self.candidate_head):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.candidate_head.bias, _LOGIT_BIAS)  # type: ignore[arg-type]

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this network, JSON values."""
        sizes = {name: list(size) if isinstance(size, tuple) else size for name, size in self.sizes.items()}
        return {**sizes, "bias_when_shown": self.bias_when_shown, "bias_when_learned": self.bias_when_learned}

    def forward(self, inputs: BuiltinInputs, learned: bool = False) -> Choice:
        """Decide for every pixel. Sides are multiples of 16.

        Args:
            inputs: the render and its candidates.
            learned: the output is learned from, not looked at.
        """
        bias = self.bias_when_learned if learned else self.bias_when_shown
        n, k = inputs.is_previous.shape
        render, valid = inputs.render, inputs.valid
        # Where a candidate is not valid it equals the render, so that its colours cannot leak into any feature.
        offset = torch.where(valid > 0, inputs.warps - render[:, None], torch.zeros((), device=render.device))
        low, misfit = _low_frequencies(offset, valid)
        coverage = F.avg_pool2d(valid.flatten(0, 1), 4).unflatten(0, (n, k))

        consensus = (offset * valid).sum(1) / (valid.sum(1) + 1e-3)
        shared = self.shared_stem(torch.cat([render - 0.5, inputs.alpha - 0.5, consensus], dim=1))
        seen = self.candidate_stem(torch.cat([offset, valid], dim=2).flatten(0, 1))
        seen = _add_to_each(seen, self.shared_to_candidate(shared)).relu_()
        shared = F.relu(shared)
        seen_down = F.relu(self.candidate_down(seen) + self.evidence(_evidence(inputs, low, misfit)))
        fine = F.relu(self.shared_down(shared) + self.geometry(_geometry(inputs, coverage)))
        pooled = _pool(seen_down.unflatten(0, (n, k)), coverage)

        fine = self.trunk(self.merge(torch.cat([fine, pooled], dim=1)))
        decoded = F.relu(self.decode(F.relu(shared + _twice(self.decode_trunk(F.relu(fine))))))
        base = F.pixel_shuffle(self.base_head(decoded), 2)
        logits = self._logits(decoded, seen, seen_down).unflatten(0, (n, k))
        scores = _scores(logits + bias, valid)
        smooth_scores = base[:, :-1] * _LOGIT_SCALE + (_LOGIT_BIAS * _LOGIT_SCALE + bias)
        weights, smooth_weights = _weights(scores, smooth_scores)
        smoothing = torch.stack([_blurred(render, scale) for scale in SCALES], dim=1) - render[:, None]
        low = F.interpolate(low.flatten(0, 1), scale_factor=_BLUR, mode="bilinear").view_as(offset)
        change = (weights.sum(2, keepdim=True) * offset - weights[:, :, 1:] * low).sum(1)
        change = change + (smooth_weights[:, :, None] * smoothing).sum(1)
        return Choice(render + change, base[:, -1:], scores, offset, low, smooth_scores, smoothing)

    def _logits(
        self,
        decoded: Float[Tensor, "n c h/2 w/2"],
        seen: Float[Tensor, "nk c h/2 w/2"],
        seen_down: Float[Tensor, "nk c h/4 w/4"],
    ) -> Float[Tensor, "nk 2 h w"]:
        hidden = self.from_candidate(seen).add_(_twice(self.from_candidate_down(seen_down)))
        hidden = _add_to_each(hidden, self.from_decoded(decoded)).relu_()
        return F.pixel_shuffle(self.candidate_head(hidden), 2).mul_(_LOGIT_SCALE)


def _add_to_each(x: Float[Tensor, "nk c h w"], shared: Float[Tensor, "n c h w"]) -> Float[Tensor, "nk c h w"]:
    """Add, in place (new memory costs most here), what a frame's candidates share to each of them."""
    n, k = len(shared), len(x) // len(shared)
    return x.add_(shared[:, None].expand(n, k, -1, -1, -1).flatten(0, 1))


def _low_frequencies(
    offset: Float[Tensor, "n k 3 h w"], valid: Float[Tensor, "n k 1 h w"]
) -> tuple[Float[Tensor, "n k 3 h/8 w/8"], Float[Tensor, "n k 1 h/8 w/8"]]:
    """Local mean of the offset, and of its size, over the valid pixels of 8x8 cells."""
    batch = offset.shape[:2]
    weighted = offset * valid
    size = weighted.abs().mean(2, keepdim=True)
    sums = F.avg_pool2d(torch.cat([weighted, size, valid], dim=2).flatten(0, 1), _BLUR).unflatten(0, batch)
    means = sums[:, :, :4] / (sums[:, :, 4:] + 1e-4)
    return means[:, :, :3], means[:, :, 3:]


def _evidence(
    inputs: BuiltinInputs, low: Float[Tensor, "n k 3 h/8 w/8"], misfit: Float[Tensor, "n k 1 h/8 w/8"]
) -> Float[Tensor, "nk 7 h/4 w/4"]:
    """What is known of each candidate at low resolution: brightness offset, misfit, cues, kind."""
    smooth = _twice(torch.cat([low, misfit], dim=2).flatten(0, 1))
    kind = inputs.is_previous[:, :, None, None, None].expand(*inputs.cues.shape[:2], 1, *inputs.cues.shape[3:])
    return torch.cat([smooth, inputs.cues.flatten(0, 1), kind.flatten(0, 1)], dim=1)


def _geometry(inputs: BuiltinInputs, coverage: Float[Tensor, "n k 1 h/4 w/4"]) -> Float[Tensor, "n 3 h/4 w/4"]:
    """Inverse depth, its range within each 4x4 cell (depth edges), and how many candidates see it."""
    nearest = F.max_pool2d(inputs.inverse_depth, 4)
    farthest = -F.max_pool2d(-inputs.inverse_depth, 4)
    return torch.cat([(nearest + farthest) / 2, nearest - farthest, coverage.sum(1) / 3], dim=1)


def _pool(
    features: Float[Tensor, "n k c h/4 w/4"], coverage: Float[Tensor, "n k 1 h/4 w/4"]
) -> Float[Tensor, "n 2c h/4 w/4"]:
    """Mean and maximum over candidates, weighted by validity: order does not matter, invalid ones do not count."""
    weighted = features * coverage
    return torch.cat([weighted.sum(1) / (coverage.sum(1) + 1e-2), weighted.amax(1)], dim=1)


def _scores(logits: Float[Tensor, "n k 2 h w"], valid: Float[Tensor, "n k 1 h w"]) -> Float[Tensor, "n k 2 h w"]:
    """Each candidate weighed down by its validity; minus infinity where invalid."""
    return torch.where(valid > 0, logits + valid.clamp(min=1e-6).log(), torch.full_like(logits, -torch.inf))


def _weights(
    scores: Float[Tensor, "n k 2 h w"], smooth_scores: Float[Tensor, "n s h w"]
) -> tuple[Float[Tensor, "n k 2 h w"], Float[Tensor, "n s h w"]]:
    """Softmax over the render (score 0), all candidates and all smoothings, without the render's share."""
    render = torch.zeros_like(scores[:, 0, :1])
    weights = torch.softmax(torch.cat([render, scores.flatten(1, 2), smooth_scores], dim=1), dim=1)
    count = scores.shape[1] * 2
    return weights[:, 1 : count + 1].unflatten(1, scores.shape[1:3]), weights[:, count + 1 :]


def _blurred(image: Float[Tensor, "n 3 h w"], scale: int) -> Float[Tensor, "n 3 h w"]:
    """Means of cells, interpolated."""
    return F.interpolate(F.avg_pool2d(image, scale), scale_factor=scale, mode="bilinear")
