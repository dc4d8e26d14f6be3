# SPDX-License-Identifier: Apache-2.0
"""The weighted sum of losses that a configuration asks for."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.features import Distance, load_features, load_lpips
from harmonizer_ns.flow import load_raft
from harmonizer_ns.training.config import LossConfig
from harmonizer_ns.training.losses.gram import SQUEEZENET_WEIGHTS, VGG16_WEIGHTS, gram_loss
from harmonizer_ns.training.losses.perceptual import lpips_loss, patch_loss
from harmonizer_ns.training.losses.pixel import l1_loss, l2_loss
from harmonizer_ns.training.losses.preserve import preservation_loss
from harmonizer_ns.training.losses.temporal import true_motion, warp_loss
from harmonizer_ns.training.pairs_data.batch import PairBatch
from harmonizer_ns.training.trainee import Parts

Images = Float[Tensor, "b 3 h w"]

_SPAN = 2  # of the colours in [-1, 1] that the weights are meant for


class Criterion:
    """Every loss whose weight is not 0. Networks that judge are loaded for those that need them.

    Args:
        config: the weights.
        device: where the images will be.
        estimate_motion: load RAFT for the temporal loss, because some clips have no depth or cameras.

    Raises:
        InputError: when weights of a network cannot be had.
    """

    def __init__(self, config: LossConfig, device: torch.device | str = "cpu", estimate_motion: bool = False) -> None:
        self._config, self._device = config, device
        self._lpips = self._features = self._raft = None
        if config.lpips:
            self._lpips = load_lpips(config.net, config.backbone, config.heads).to(device)
        if config.gram or config.patches:
            self._features = load_features(config.net, config.backbone).to(device)
        if config.temporal and estimate_motion:
            self._raft = load_raft("large", config.raft).to(device)

    @property
    def distance(self) -> Distance | None:
        """LPIPS for validation, if it is there."""
        model, device = self._lpips, self._device
        if model is None:
            return None
        return lambda image, target: model(image.to(device), target.to(device), normalize=True).flatten()

    def __call__(
        self,
        output: Images,
        batch: PairBatch,
        step: int,
        before: PairBatch | None = None,
        previous: Images | None = None,
    ) -> tuple[Float[Tensor, ""], Parts]:
        """The loss at an optimizer step, and its terms without their weights.

        Args:
            output: of the network, in [0, 1], not clamped.
            batch: the views that it repairs.
            step: counted from 1.
            before: in a clip, the frames before them.
            previous: what was made of those.
        """
        terms = self._terms(output, batch, step, before, previous)
        total = output.new_zeros(())
        for name, value in terms.items():
            total = total + getattr(self._config, name) * value
        return total, {name: value.detach() for name, value in terms.items()}

    def _terms(
        self, output: Images, batch: PairBatch, step: int, before: PairBatch | None, previous: Images | None
    ) -> Parts:
        config, target = self._config, batch.target
        terms: Parts = {}
        if config.l1:
            terms["l1"] = _SPAN * l1_loss(output, target)
        if config.l2:
            terms["l2"] = _SPAN**2 * l2_loss(output, target)
        if self._lpips is not None:
            terms["lpips"] = lpips_loss(output, target, self._lpips)
        if config.gram and self._features is not None and step > config.gram_after:
            layers = VGG16_WEIGHTS if config.net == "vgg" else SQUEEZENET_WEIGHTS
            terms["gram"] = gram_loss(output, target, self._features, batch.seeds, config.gram_crop, layers)
        if config.patches and self._features is not None:
            terms["patches"] = patch_loss(output, target, self._features, batch.seeds)
        if config.preserve:
            terms["preserve"] = _SPAN * preservation_loss(output, batch.image, target)
        if config.temporal and before is not None and previous is not None:
            terms["temporal"] = _SPAN**2 * warp_loss(output, previous, true_motion(batch, before, self._raft))
        return terms
