# SPDX-License-Identifier: Apache-2.0
"""What the training loop trains, and what it draws from: two small contracts."""

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
    """One validation view, for metrics and sample sheets; colours in [0, 1].

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
    """What a validation finds.

    Args:
        figures: by name.
        pictures: some views.
    """

    figures: dict[str, float]
    pictures: list[Pictures]


def validated(pictures: list[Pictures], distance: Distance | None = None) -> Validation:
    """Means over the views of PSNR, SSIM and a distance: ``psnr``, ``psnr_input`` and so on; empty without views.

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
    """A network and what it takes to train it."""

    @property
    def network(self) -> nn.Module:
        """On its device, in training mode; always the same one."""
        ...

    def loss(self, network: nn.Module, batch: Any, step: int) -> tuple[Float[Tensor, ""], Parts]:
        """The loss of a batch at an optimizer step.

        Args:
            network: `network`, possibly wrapped for several processes; forward passes with gradients go through it.
            batch: from the data.
            step: counted from 1.
        """
        ...

    def validate(self, batches: list[Any], step: int) -> Validation:
        """What the network makes of the validation data; called in evaluation mode, without gradients.

        Args:
            batches: the data's.
            step: that was done last.
        """
        ...

    def export(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Write an enhancer folder that `load_enhancer` reads; the network stays as it is."""
        ...


class Data(Protocol):
    """Where batches come from. Everything drawn is a function of the step, so there is no position to lose."""

    def batch(self, step: int, micro: int) -> Any:
        """This process's batch number ``micro`` within an optimizer step, on the CPU."""
        ...

    def validation(self) -> list[Any]:
        """Batches that are never trained on; may be empty."""
        ...

    def fingerprint(self) -> str:
        """Changes when what is drawn changes, but not when the files move."""
        ...


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: value for name, value in network.named_parameters() if value.requires_grad}
