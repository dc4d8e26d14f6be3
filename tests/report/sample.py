# SPDX-License-Identifier: Apache-2.0
"""A report with everything in it that reports can hold."""

import torch

from harmonizer_ns.report import CameraMap, Plot, Report, Spread, Table, View, heading

NAN = float("nan")


def coloured(red: float, green: float, blue: float, height: int = 90, width: int = 120) -> torch.Tensor:
    return torch.tensor([red, green, blue])[:, None, None].expand(3, height, width)


def view(name: str, plain: float, enhanced: float | None, **pictures: torch.Tensor) -> View:
    """A red plain picture, a green one that a method made, a blue truth."""
    shown = {"plain": coloured(1, 0, 0), "enhanced": coloured(0, 1, 0), "truth": coloured(0, 0, 1), **pictures}
    scores = {heading("PSNR", "higher", "plain"): plain, heading("PSNR", "higher", "enhanced"): enhanced}
    return View(name, shown, scores, plain)


def report(title: str = "harmonizer evaluate demo", views: tuple[View, ...] | None = None, **others) -> Report:
    averages = Table(
        "Held-out photos",
        ("image", heading("PSNR", "higher"), heading("LPIPS", "lower"), "gain ↑", "Gaussians"),
        (("plain", 20.0, 0.25, None, 12000), ("enhanced", 21.456, NAN, Spread(1.456, 0.1), 12000)),
        "Over 2 views.",
    )
    curves = Plot("Loss", "step", "loss", {"plain": ((0, 1.0), (50, NAN), (100, 0.5)), "ours": ((0, 0.9), (100, 0.4))})
    cameras = CameraMap({"photos": torch.rand(5, 3), "held-out": torch.rand(2, 3), "path": torch.rand(9, 3)})
    views = (view("first", 22.0, 23.0), view("second", 18.0, 17.5)) if views is None else views
    parts = {"tables": (averages,), "plots": (curves,), "cameras": cameras, "settings": {"seed": 7}, **others}
    return Report(title, ("One got better, one got worse.", "Of one scene."), views=views, **parts)
