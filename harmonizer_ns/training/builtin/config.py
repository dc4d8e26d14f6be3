# SPDX-License-Identifier: Apache-2.0
"""This module holds the options of training the built-in network, besides those that every training has."""

from __future__ import annotations

from dataclasses import dataclass, field

from harmonizer_ns.errors import InputError
from harmonizer_ns.training.config import TrainingConfig


@dataclass(frozen=True)
class AugmentConfig:
    """Says how crops are varied. They are cut out of whole views at random places, and never resized."""

    drop_references: float = 0.5
    """Share of crops that see only a random number (0 to all) of their references, instead of all."""
    show_previous: float = 0.4
    """Share of crops that see a previous output: a random mixture of the neighbouring frame's truth and render."""
    clean: float = 0.05
    """Share of crops whose render is replaced by the truth: nothing is to be done."""
    near_clean: float = 0.12
    """Share of crops whose render is moved up to 80% of the way toward the truth."""
    jitter: float = 0.15
    """Relative range of the random gain of each colour and of the gamma, the same for all images of a crop."""
    exposure: float = 0.2
    """Share of references with a brightness of their own (gain within 10%), as photos have."""


@dataclass(frozen=True)
class ChoiceLossConfig:
    """Weighs the network's own losses."""

    error: float = 1.0
    """log(MSE of the output / MSE of the render): a tenth of it is 0.43 dB."""
    preserve: float = 0.02
    """The same over the render's better half of the pixels, where it got worse. Little, since that half is known only
    to who knows the truth: errors which happen to be small count as skill. The bias that is calibrated afterwards does
    the rest."""
    detail: float = 0.1
    """Absolute error of image gradients, relative to the render's."""
    confidence: float = 0.1
    """Cross-entropy of the confidence."""
    guidance: float = 1.0
    """Cross-entropy of the weights with what would have been right, at the start. The other terms alone drive all
    weights to 0, where they have no gradient, before the network can tell good candidates from bad ones."""
    guidance_kept: float = 0.02
    """Share of the guidance that is left half way through, after falling linearly, and stays."""


@dataclass(frozen=True)
class BuiltinConfig(TrainingConfig):
    """Describes one training run of the built-in network, from pairs with depth, cameras and references."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    choice_loss: ChoiceLossConfig = field(default_factory=ChoiceLossConfig)
    tolerated_loss: float = 0.1
    """How many dB the better half of the held-out pixels may lose when the bias of shown repairs is calibrated."""
    cache: float = 4.0
    """Gigabytes of memory (of each loading process) for warped views; views beyond are warped each time they come up.
    A view of 240x135 pixels takes 1 MB."""
    data_note: str = "not stated"
    """What the pairs were made from, for the model card."""

    def __post_init__(self) -> None:
        """Refuse options that would do nothing."""
        wrong = {
            "--data.zoom (crops are not resized)": self.data.zoom != 1,
            "--loss.temporal": self.loss.temporal != 0,
            "--optimizer.gradient-checkpointing": self.optimizer.gradient_checkpointing,
            "--saving.difix-checkpoint": self.saving.difix_checkpoint,
        }
        named = ", ".join(name for name, is_wrong in wrong.items() if is_wrong)
        if named:
            raise InputError(f"the built-in network is trained without these options, leave them out: {named}")
