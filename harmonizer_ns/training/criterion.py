# SPDX-License-Identifier: Apache-2.0
"""The criterion is the weighted sum of losses that a configuration asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.features import Distance, load_features, load_lpips
from harmonizer_ns.flow import load_raft
from harmonizer_ns.training.config import LossConfig
from harmonizer_ns.training.losses.perceptual import SQUEEZENET_WEIGHTS, VGG16_WEIGHTS, gram_loss, patch_loss
from harmonizer_ns.training.losses.preserve import preservation_loss
from harmonizer_ns.training.losses.temporal import true_motion, warp_loss
from harmonizer_ns.training.pairs_data.batch import PairBatch
from harmonizer_ns.training.trainee import Parts

Images = Float[Tensor, "b 3 h w"]

_SPAN = 2  # of the colours in [-1, 1] that the weights are meant for


class Criterion:
    """Computes every loss whose weight is not 0. Networks that judge are loaded for those that need them.

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
        """Give LPIPS for validation, if it is there."""
        model, device = self._lpips, self._device
        if model is None:
            return None
        return lambda image, target: model(image.to(device), target.to(device), normalize=True).flatten()

    def __call__(
        self,
        output: Images,
        image: Images,
        target: Images,
        seeds: Sequence[int],
        step: int,
        clip: PairBatch | None = None,
        previous: Images | None = None,
    ) -> tuple[Float[Tensor, ""], Parts]:
        """Compute the loss at an optimizer step, and its terms without their weights.

        Args:
            output: of the network, in [0, 1], not clamped.
            image: what it repairs.
            target: what it should look like.
            seeds: one for each image, from which squares are drawn.
            step: counted from 1.
            clip: whose last frames these are.
            previous: what was made of the frames before them.

        Raises:
            ValueError: when the shapes differ, and would broadcast.
        """
        if not output.shape == image.shape == target.shape or output.ndim != 4 or output.shape[1] != 3:
            shapes = [tuple(images.shape) for images in (output, image, target)]
            raise ValueError(f"losses compare images of one shape b 3 h w, got {shapes}")
        config = self._config
        terms: Parts = {}
        if config.l1:
            terms["l1"] = _SPAN * F.l1_loss(output, target)
        if config.l2:
            terms["l2"] = _SPAN**2 * F.mse_loss(output, target)
        if self._lpips is not None:
            terms["lpips"] = self._lpips(output, target, normalize=True).mean()
        if config.gram and self._features is not None and step > config.gram_after:
            layers = VGG16_WEIGHTS if config.net == "vgg" else SQUEEZENET_WEIGHTS
            terms["gram"] = gram_loss(output, target, self._features, seeds, config.gram_crop, layers)
        if config.patches and self._features is not None:
            terms["patches"] = patch_loss(output, target, self._features, seeds)
        if config.preserve:
            terms["preserve"] = _SPAN * preservation_loss(output, image, target)
        if config.temporal and clip is not None and previous is not None:
            motion = true_motion(clip.frame(-1), clip.frame(-2), self._raft)
            terms["temporal"] = _SPAN**2 * warp_loss(output, previous, motion)
        total = output.new_zeros(())
        for name, value in terms.items():
            total = total + getattr(config, name) * value
        return total, {name: value.detach() for name, value in terms.items()}
