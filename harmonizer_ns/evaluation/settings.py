# SPDX-License-Identifier: Apache-2.0
"""Settings of an evaluation: what is measured, with which enhancer, and where results go."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.devices import Device, Precision
from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation.networks import Networks
from harmonizer_ns.splats.fit import SplatConfig, SplatReconstructor
from harmonizer_ns.splats.held_out import SparseFit, fit_sparse, split_capture

VIEWS = 16
"""Held-out photos compared for each capture."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Measure renders against photos, and what an enhancer gains.

    RUN is a finished run of ns-train (its config.yml, or the folder of it) or of gsplat-trainer (its result folder):
    its held-out photos are rendered. For a capture's folder (DATA) a splat is fitted to every n-th photo, and the other
    photos are rendered. Renders are enhanced with the nearest fitted photos as references, and both are compared with
    the photos. PAIRS are pictures that exist already: a folder that holds render/ and gt/ with pictures of the same
    names, a folder of scenes like that with CAMERA/TIME.png inside, a pairs file (.json), or two folders, PICTURES
    and TRUTHS.
    """

    scenes: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN|DATA|PAIRS [...]")]
    """What is measured, see above; several are one table."""
    enhancer: str | None = None
    """A name that `harmonizer enhancers` lists, or the folder of a checkpoint. None: the built-in one for captures, a
    run's own for runs, and none for pairs."""
    temporal: bool = False
    """Measure flicker instead: fly past held-out photos, every frame enhanced as part of one stream. For pairs: take
    the pictures of each scene as a video's frames, in the order of their names (those of clips always are)."""
    width: int | None = 240
    """Width of a capture's photos and renders in pixels. Runs and pairs keep theirs."""
    every: int = 4
    """Every n-th photo of a capture is fitted."""
    views: int | None = None
    """Held-out photos compared for each scene: evenly spread, or with --temporal the first ones in a row. None: 16 of a
    capture, or with --temporal; all of a run."""
    between: int = 3
    """With --temporal: interpolated frames between two photos."""
    output: Path | None = None
    """Folder for report.html, report.json, report.md, and the pictures of each view: one by one, and side by side
    (render, enhanced, photo); with --temporal also temporal.json. None writes nothing."""
    lpips: tuple[Path, Path] | None = None
    """Weights of LPIPS-squeeze: torchvision's squeezenet1_1 state dict and the linear heads."""
    weights: tuple[Path, ...] = ()
    """Folders in which weights of further measures are looked for by name, before torch's and the Hub's caches:
    squeezenet1_1*.pth, vgg16-*.pth, alexnet-*.pth (LPIPS), weights-inception-2015-12-05-*.pth (FID, KID), and folders
    dino-vitb8, dino-vitb16, clip-vit-base-patch32. Nothing is downloaded; what is missing is told."""
    allow_outside: bool = False
    """For pairs files: accept paths that leave the file's folder."""
    trust: bool = False
    """For a config.yml that names more than the settings of nerfstudio and of installed plugins, which is refused:
    build whatever it names. It can then run any code, as in nerfstudio's own commands."""
    device: Device = "auto"
    """Where to fit and enhance; auto takes a GPU when there is one."""
    precision: Precision = "auto"
    """Number type of large networks; auto is bf16 on a GPU (fp16 before Ampere) and fp32 elsewhere."""
    threads: int = 1
    """Threads of torch on a CPU."""
    splat: Annotated[SplatConfig, tyro.conf.arg(name="")] = field(default_factory=SplatConfig)
    """The fitter."""

    def __post_init__(self) -> None:
        if self.every < 2 or (self.views is not None and self.views < 1) or self.between < 0:
            raise InputError(
                "--every should be at least 2, so that photos are held out, --views at least 1 and --between at least "
                f"0; got {self.every}, {self.views} and {self.between}"
            )

    def fit(self, capture: Capture) -> SparseFit:
        """A splat of every n-th photo of a capture."""
        split = split_capture(capture, range(0, len(capture), self.every))
        return fit_sparse(split, SplatReconstructor(self.splat))

    def networks(self, device: str) -> Networks:
        """The networks that measure.

        Raises:
            InputError: when a folder of weights is not there.
        """
        if missing := [str(folder) for folder in self.weights if not folder.is_dir()]:
            raise InputError(f"--weights: there is no folder {', '.join(missing)}")
        return Networks(self.weights, self.lpips, device)

    def settings(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return json.loads(json.dumps(asdict(self), default=str))
