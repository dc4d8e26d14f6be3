# SPDX-License-Identifier: Apache-2.0
"""The training loop asks two small contracts of what it trains and of what it draws from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jaxtyping import Float
from torch import Tensor, nn

from harmonizer_ns.features import Distance
from harmonizer_ns.metrics import psnr, ssim

Parts = dict[str, Float[Tensor, ""]]
"""The terms of a loss by name, unweighted and detached, for curves."""


class Pictures(NamedTuple):
    """Shows one validation view, for metrics and sample sheets; colours in [0, 1].

    Args:
        render: what was given.
        output: what the network makes of it.
        target: the truth.
        reference: the first reference photo, or None.
    """

    render: Float[Tensor, "3 h w"]
    output: Float[Tensor, "3 h w"]
    target: Float[Tensor, "3 h w"]
    reference: Float[Tensor, "3 h w"] | None


class Validation(NamedTuple):
    """Is what a validation finds.

    Args:
        figures: by name.
        pictures: some views.
    """

    figures: dict[str, float]
    pictures: list[Pictures]


def validated(pictures: list[Pictures], distance: Distance | None = None) -> Validation:
    """Average PSNR, SSIM and a distance over the views: ``psnr``, ``psnr_input`` and so on; nothing without views.

    Args:
        pictures: the views.
        distance: LPIPS; None leaves it out.
    """
    metrics = {"psnr": psnr, "ssim": ssim, **({"lpips": distance} if distance else {})}
    found: dict[str, float] = {}
    for view in pictures:
        for name, metric in metrics.items():
            for suffix, image in (("", view.output), ("_input", view.render)):
                value = metric(image[None].clamp(0, 1), view.target[None]).mean().item() / len(pictures)
                found[name + suffix] = found.get(name + suffix, 0.0) + value
    return Validation(found, pictures)


class Trainee(Protocol):
    """Is a network and what it takes to train it."""

    @property
    def network(self) -> nn.Module:
        """Give the network, on its device, in training mode; always the same one."""
        ...

    def loss(self, network: nn.Module, batch: Any, step: int) -> tuple[Float[Tensor, ""], Parts]:
        """Compute the loss of a batch at an optimizer step.

        Args:
            network: `network`, possibly wrapped for several processes; forward passes with gradients go through it.
            batch: from the data.
            step: counted from 1.
        """
        ...

    def validate(self, batches: list[Any], step: int) -> Validation:
        """Measure what the network makes of the validation data; called in evaluation mode, without gradients.

        Args:
            batches: the data's.
            step: that was done last.
        """
        ...

    def export(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Write an enhancer folder that `load_enhancer` reads; the network stays as it is."""
        ...


class Data(Protocol):
    """Gives batches. Everything drawn is a function of the step, so there is no position to lose."""

    def batch(self, step: int, micro: int) -> Any:
        """Load this process's batch number ``micro`` within an optimizer step, on the CPU."""
        ...

    def validation(self) -> list[Any]:
        """Load batches that are never trained on; there may be none."""
        ...

    def fingerprint(self) -> str:
        """Digest what is drawn: it changes when that does, but not when the files move."""
        ...


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """Collect the parameters that learn, by name."""
    return {name: value for name, value in network.named_parameters() if value.requires_grad}
