# SPDX-License-Identifier: Apache-2.0
"""The store keeps repaired views in memory, checkpoints name them, and the sampler draws from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from harmonizer_ns.devices import sent
from harmonizer_ns.distill.view_files import digest_of, read_view, view_path, write_view
from harmonizer_ns.images import to_float, to_uint8
from harmonizer_ns.types import Cameras, PseudoView

HALF_LIFE = 4.0
"""Rounds after which a repair is worth half: the scene has changed since."""

_IMAGES = ("rgb", "render", "weight")


@dataclass(eq=False)
class StoredView:
    """A `PseudoView` on the CPU in 8 bits, in which 255 is 1; its ``confidence`` is the mean weight in [0, 1].

    Its pixels never change; they may move into memory from which a GPU copies without help.
    """

    pixels: UInt8[Tensor, "7 h w"]
    camera: Cameras
    step: int
    target: int
    confidence: float

    @property
    def rgb(self) -> UInt8[Tensor, "3 h w"]:
        """The repaired colours."""
        return self.pixels[:3]

    @property
    def render(self) -> UInt8[Tensor, "3 h w"]:
        """The colours before."""
        return self.pixels[3:6]

    @property
    def weight(self) -> UInt8[Tensor, "1 h w"]:
        """How far each pixel may be trusted."""
        return self.pixels[6:]

    @cached_property
    def digest(self) -> str:
        """What the view's file is called, see `digest_of`."""
        return digest_of(self.pixels)

    def decode(self, device: torch.device | str = "cpu") -> PseudoView:
        """The view as float in [0, 1] on a device, to which bytes are sent; its camera stays on the CPU."""
        if torch.device(device).type == "cuda" and not self.pixels.is_pinned():
            self.pixels = self.pixels.pin_memory()
        rgb, render, weight = to_float(sent(self.pixels, device)).split((3, 3, 1))
        return PseudoView(rgb, render, weight, camera=self.camera, step=self.step, target=self.target)


def encode(view: PseudoView) -> StoredView:
    """Round a view to 8 bits on the CPU (largest error 1/510)."""
    images = torch.cat([getattr(view, name).detach() for name in _IMAGES])
    pixels = to_uint8(images).cpu()
    confidence = pixels[6:].double().mean().item() / 255  # of the stored weight: no draw of what rounds to 0
    return StoredView(pixels, view.camera.to("cpu"), view.step, view.target, confidence)


class PseudoViewStore:
    """Keeps the most valuable repaired views of all rounds.

    When it is full the view with the least ``confidence x 0.5^(age / HALF_LIFE)`` goes, age in rounds; the newest view
    of every target goes only when nothing else is left.

    Args:
        capacity: how many views to keep at most; at least 1.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.stored: tuple[StoredView, ...] = ()  # oldest first
        self._on_disk: set[Path] = set()

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: int) -> PseudoView:
        """A view as float, oldest first."""
        return self.stored[index].decode()

    def __iter__(self) -> Iterator[PseudoView]:
        return (view.decode() for view in self.stored)

    def add(self, views: Iterable[StoredView]) -> None:
        """Add the views of a round all at once, then let the least valuable ones go."""
        self.stored = self._trimmed((*self.stored, *views))

    def values(self) -> Float[Tensor, " n"]:
        """``confidence x 0.5^(age / HALF_LIFE)`` of every view."""
        return _values(self.stored)

    def _trimmed(self, views: tuple[StoredView, ...]) -> tuple[StoredView, ...]:
        """The ``capacity`` most valuable views, in the same order."""
        excess = len(views) - self.capacity
        if excess <= 0:
            return views
        newest = set({view.target: index for index, view in enumerate(views)}.values())
        values = _values(views).tolist()
        order = sorted(range(len(views)), key=lambda i: (i in newest, values[i], i))
        dropped = set(order[:excess])
        return tuple(view for index, view in enumerate(views) if index not in dropped)

    def write(self, folder: Path) -> None:
        """Write the views that this store has not yet written to, or read from, a folder.

        Raises:
            InputError: when one cannot be written.
        """
        for view in self.stored:
            path = view_path(folder, view.digest)
            if path not in self._on_disk or not path.is_file():
                write_view(path, view.pixels)
                self._on_disk.add(path)

    def state_dict(self) -> dict[str, Any]:
        """All views as plain tensors, lists and numbers, but for their pixels: those are for `write`."""
        return {"views": [_view_state(view) for view in self.stored]}

    def load_state_dict(self, state: dict[str, Any], folder: Path) -> None:
        """Restore exactly what ``state_dict`` gave; a smaller capacity lets the least valuable ones go.

        Args:
            state: as it was given. Earlier versions kept the pixels there.
            folder: into which the views were written.

        Raises:
            InputError: naming a view's file that is missing or damaged.
        """
        self.stored = self._trimmed(tuple(_view_from_state(view, folder) for view in state["views"]))
        self._on_disk = {view_path(folder, view["sha256"]) for view in state["views"] if "sha256" in view}


def _values(views: tuple[StoredView, ...]) -> Float[Tensor, " n"]:
    """Value of each view; its age is the number of later rounds of which a view is present."""
    rounds = {step: index for index, step in enumerate(sorted({view.step for view in views}, reverse=True))}
    ages = torch.tensor([rounds[view.step] for view in views], dtype=torch.float64)
    confidences = torch.tensor([view.confidence for view in views], dtype=torch.float64)
    return confidences * 0.5 ** (ages / HALF_LIFE)


def _view_state(view: StoredView) -> dict[str, Any]:
    camera = view.camera
    state = {"sha256": view.digest, "step": view.step, "target": view.target, "confidence": view.confidence}
    size = [camera.width, camera.height]
    return state | {"camera_to_world": camera.camera_to_world, "intrinsics": camera.intrinsics, "size": size}


def _view_from_state(state: dict[str, Any], folder: Path) -> StoredView:
    width, height = (int(x) for x in state["size"])
    camera = Cameras(state["camera_to_world"].cpu(), state["intrinsics"].cpu(), width, height)
    if "sha256" in state:
        pixels = read_view(view_path(folder, state["sha256"]), width, height)
    else:
        pixels = torch.cat([state[name].cpu() for name in _IMAGES])
    return StoredView(pixels, camera, int(state["step"]), int(state["target"]), float(state["confidence"]))


class PseudoViewSampler:
    """Draws the pseudo-views that training steps learn from besides their photos.

    Args:
        pseudo_probability: probability in [0, 1] that a step has a pseudo-view.
        loss_weight: trust, in [0, 1], in pseudo-views as a whole; multiplied into the weight of a drawn view.
    """

    def __init__(self, pseudo_probability: float, loss_weight: float) -> None:
        self.pseudo_probability, self.loss_weight = pseudo_probability, loss_weight
        self._generator = torch.Generator().manual_seed(0)  # its own: draws depend on nothing else in the process

    def draw(self, store: PseudoViewStore, trust: float, device: torch.device | str = "cpu") -> PseudoView | None:
        """A pseudo-view to learn from besides a photo in this step, or None.

        Views are drawn in proportion to the store's ``values``: confidence, halved every `HALF_LIFE` rounds. The
        generator advances by the same amount whatever the outcome.

        Args:
            store: what to draw from.
            trust: multiplied into the weight of the drawn view, in [0, 1]; nothing is drawn at 0.
            device: where it is decoded and weighed.
        """
        chance, position = torch.rand(2, generator=self._generator, dtype=torch.float64).tolist()
        if chance < 1 - self.pseudo_probability or not len(store) or trust <= 0:
            return None
        cumulative = store.values().cumsum(dim=0)
        if cumulative[-1] <= 0:
            return None
        index = int(torch.searchsorted(cumulative, position * cumulative[-1], right=True))
        view = store.stored[min(index, len(store) - 1)].decode(device)
        return replace(view, weight=view.weight * (self.loss_weight * trust))

    def state_dict(self) -> dict[str, Any]:
        """State of the generator, as a byte tensor."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the same draws as where ``state_dict`` was taken."""
        self._generator.set_state(state["generator"].cpu())
