# SPDX-License-Identifier: Apache-2.0
"""Calibration says how far a network may change pictures: one bias for repairs to look at, one to learn from."""

from __future__ import annotations

from collections.abc import Sequence

from harmonizer_ns.enhancers.builtin.enhancer import BuiltinEnhancer
from harmonizer_ns.training.builtin.validation import Figures, means, validate
from harmonizer_ns.training.builtin.views import WarpedView

BIASES = tuple(b / 4 for b in range(-8, 7))
"""What calibration tries."""


def calibrate(enhancer: BuiltinEnhancer, views: Sequence[WarpedView], tolerated_loss: float) -> dict[float, Figures]:
    """Choose both biases of a network (see `BuiltinNetwork`), in place.

    Looked at: what gains most while the good half loses at most so many dB. That half is chosen by the truth, so that
    errors of the render which happened to be small count as skill: even a perfect enhancer has to trade here, and
    training cannot weigh that exactly. Learned from: what lowers the loss of splats most. A repair with the least
    squared error hedges where it is in doubt, and whoever learns from it learns the blur as well.

    Returns:
        the figures at every bias.
    """
    network, figures = enhancer.network, {}
    for bias in BIASES:
        network.bias_when_shown = bias
        figures[bias] = means(validate(enhancer, views))["mean"]
    harmless = [bias for bias, f in figures.items() if f["good_input"] - f["good"] <= tolerated_loss]
    network.bias_when_shown = max(harmless, key=lambda bias: figures[bias]["psnr"], default=BIASES[0])
    network.bias_when_learned = min(BIASES, key=lambda bias: figures[bias]["loss"])
    return figures
