# SPDX-License-Identifier: Apache-2.0
"""Settings of the three commands; flags carry the names that users of gsplat's ``simple_trainer.py`` know."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gsplat.strategy import DefaultStrategy, MCMCStrategy

from harmonizer_ns.captures.photos import Alpha
from harmonizer_ns.distill.settings import DistillSettings
from harmonizer_ns.errors import InputError, check_limits
from harmonizer_ns.splats.compressed import require_gsply
from harmonizer_ns.splats.files import SplatFormat
from harmonizer_ns.stereo.settings import GeometrySettings

Trajectory = Literal["interp", "ellipse", "spiral", "none"]


@dataclass
class Config(GeometrySettings, DistillSettings):
    """What every command shares: a subset of gsplat's flags, some with other defaults (see ``--help``)."""

    data_dir: Path | None = None
    """Folder of the capture: COLMAP (sparse/0 and images) or nerfstudio (transforms.json)."""
    data_format: Literal["auto", "colmap", "nerfstudio"] = "auto"
    """Which of the two to read; "auto" prefers COLMAP where a folder holds both."""
    data_factor: int = 4
    """Photos are used this many times smaller, from images_N; that folder is made when it is missing."""
    result_dir: Path = Path("results/scene")
    """Where everything is written."""
    test_every: int = 8
    """Every N-th photo is held out, unless the capture or the lists below say which."""
    train_list: Path | None = None
    """Text file with the names of the photos to train on, one on a line."""
    test_list: Path | None = None
    """Text file with the names of the photos to hold out, one on a line."""
    mask_dir: Path | None = None
    """Folder of masks named as the photos; black pixels are not learned from."""
    alpha: Alpha = "mask"
    """What becomes of transparent pixels of photos: they are not learned from, or they are black."""
    normalize_world_space: bool = False
    """Move the capture into gsplat's normalised frame. By default splats stay in the capture's own frame."""
    camera_path_transform: Path | None = None
    """dataparser_transforms.json of the nerfstudio run in whose viewer camera_path was made."""
    ckpt: list[Path] | None = None
    """Splats in one or several files, as for harmonize --ply: evaluate them and stop, without training."""
    resume: Path | None = None
    """A full checkpoint (ckpts/full_*.safetensors), or a folder of them to take the newest from: train on, exactly."""
    max_steps: int = 30_000
    """Training steps in all."""
    batch_size: int = 1
    """Photos in a step; more than one needs photos of one size."""
    steps_scaler: float = 1.0
    """Multiplies every number of steps."""
    eval_steps: list[int] = field(default_factory=lambda: [7_000, 30_000])
    """Steps after which the held-out photos are measured; the last step always is."""
    save_steps: list[int] = field(default_factory=lambda: [7_000, 30_000])
    """Steps after which checkpoints are written; the last step always is."""
    init_type: Literal["sfm", "random"] = "sfm"
    """Begin with points on surfaces, see seeds, or with random ones."""
    init_num_pts: int = 100_000
    """How many random points."""
    init_extent: float = 3.0
    """Side of the cube of random points, in units of the cameras' extent."""
    init_opa: float = 0.1
    """Opacity to begin with."""
    init_scale: float = 1.0
    """Size to begin with, in units of the distance to neighbouring points."""
    sh_degree: int = 3
    """Degree of the view-dependent colour."""
    sh_degree_interval: int = 1000
    """Steps after which one more degree is learned."""
    ssim_lambda: float = 0.2
    """Share of D-SSIM in the image loss; the rest is L1."""
    near_plane: float = 0.01
    """Nothing closer is drawn."""
    far_plane: float = 1e10
    """Nothing farther is drawn."""
    global_scale: float = 1.0
    """Factor on the scene's extent, which sets step sizes and growth."""
    means_lr: float = 1.6e-4
    """Step size of positions, in units of the scene's extent; falls to a hundredth."""
    scales_lr: float = 5e-3
    """Step size of log scales."""
    quats_lr: float = 1e-3
    """Step size of rotations."""
    opacities_lr: float = 5e-2
    """Step size of opacity logits."""
    sh0_lr: float = 2.5e-3
    """Step size of colours."""
    shN_lr: float = 2.5e-3 / 20  # noqa: N815 (gsplat's name)
    """Step size of view-dependent colours."""
    packed: bool = False
    """gsplat's packed mode: less memory, slower."""
    visible_adam: bool = False
    """Let Adam change only the Gaussians that a step shows."""
    sparse_grad: bool = False
    """Does the same as visible_adam: rasterizers here give dense gradients."""
    antialiased: bool = False
    """Mip-Splatting's opacity compensation."""
    camera_model: Literal["pinhole"] = "pinhole"
    """Photos of any lens are undistorted, so that only pinhole cameras are trained."""
    random_bkgd: bool = False
    """Random background in training, against transparency."""
    opacity_reg: float | None = None
    """Weight of the mean opacity in the loss, which thins out what floats before few photos; None: 0.02 where at most
    20 photos are learned from, 0 with more."""
    scale_reg: float = 0.0
    """Weight of the mean scale in the loss."""
    pose_opt: bool = False
    """Correct the training cameras' poses."""
    pose_opt_lr: float = 1e-5
    """Step size of pose corrections."""
    pose_opt_reg: float = 1e-6
    """Weight decay of pose corrections."""
    app_opt: bool = False
    """Give every photo its own affine colour transform; the splats stay exportable."""
    app_opt_lr: float = 1e-3
    """Step size of the colour transforms."""
    app_opt_reg: float = 1e-6
    """Weight decay of the colour transforms."""
    depth_loss: bool = False
    """Learn depth from COLMAP's points as well."""
    depth_lambda: float = 1e-2
    """Weight of that loss."""
    render_traj_path: Trajectory = "interp"
    """Camera path of the final videos, raw and enhanced; "none" makes none."""
    traj_frames: int = 120
    """Frames of the videos."""
    lpips_net: Literal["alex", "vgg", "squeeze", "none"] = "alex"
    """Network of the LPIPS metric; left out where its weights cannot be had."""
    save_ply: bool = True
    """Write the splats with every checkpoint, in the formats below."""
    export_formats: list[SplatFormat] = field(default_factory=lambda: ["ply"])
    """Formats of the splats, one or several: "ply" is exact; "ply_compressed" (.compressed.ply, for PlayCanvas and
    SuperSplat) and "spz" (Niantic) are four to five times smaller and lose a little; pip install
    'harmonizer-ns[splats]'."""
    final_report: bool = True
    """Write report.html, report.json and report.md when the run ends."""
    open_report: bool = False
    """Show report.html in the browser when the run has ended."""
    tb_every: int = 100
    """Steps between tensorboard entries."""
    disable_viewer: bool = True
    """Set to False to watch the training in a browser."""
    viewer_host: str = "127.0.0.1"
    """Address the viewer listens on. The default is this machine only; 0.0.0.0 lets everybody in your network look."""
    port: int = 8080
    """Where it listens."""
    device: str = "auto"
    """"cuda", "cpu", or "auto" for CUDA where there is one."""
    all_gpus: bool = False
    """Split the Gaussians among all GPUs that CUDA_VISIBLE_DEVICES shows, each of which takes batch_size photos in a
    step. By default one GPU trains."""
    seed: int = 42
    """Seed of everything random."""
    strategy: DefaultStrategy | MCMCStrategy = field(default_factory=DefaultStrategy)
    """Density control."""

    @property
    def only_visible(self) -> bool:
        """Whether a step changes only the Gaussians that it shows."""
        return self.visible_adam or self.sparse_grad


@dataclass
class DefaultConfig(Config):
    """The original density control: grow by gradient, prune, reset."""

    strategy: DefaultStrategy = field(default_factory=DefaultStrategy)
    """Density control."""


@dataclass
class McmcConfig(Config):
    """3D Gaussian splatting as Markov chain Monte Carlo: a fixed budget of Gaussians that move."""

    init_opa: float = 0.5
    init_scale: float = 0.1
    opacity_reg: float | None = 0.01
    scale_reg: float = 0.01
    strategy: MCMCStrategy = field(default_factory=MCMCStrategy)
    """Density control."""


@dataclass
class HarmonizeConfig(DefaultConfig):
    """Repair splats that exist already: a PLY, .spz, gsplat .pt or splatfacto .ckpt goes in, a PLY comes out.

    With photos (data_dir) every step learns from one, and repairs are checked against them. Without photos
    (targets "path" and camera_path only) the splats learn from repairs of their own renders: floaters and noise that
    the enhancer recognises go, but nothing can tell a wrong surface from a right one, and no detail comes back that
    the splats do not hold.
    """

    ply: list[Path] | None = None
    """The splats: .ply (also compressed), .spz, gsplat's .pt or splatfacto's .ckpt. Several files are parts of one
    scene; the ranks of a gsplat run are found from any of them."""
    ply_transform: str = "none"
    """The frame the splats live in: "none" is the capture's; "gsplat" is gsplat's normalised one; a
    dataparser_transforms.json (beside config.yml of the run) is nerfstudio's, where ns-export leaves its PLYs."""
    data_factor: int = 1
    """Photos are used this many times smaller; splats keep their detail at the size that they were fitted at."""
    max_steps: int = 3_000
    steps_per_fix: int = 500
    fix_start: int = 0
    eval_steps: list[int] = field(default_factory=list)
    save_steps: list[int] = field(default_factory=list)
    means_lr: float = 1.6e-5
    """As in training, ten times smaller: the splats are nearly in place."""
    opacities_lr: float = 2e-2
    opacity_reg: float | None = 0.0
    """Weight of the mean opacity in the loss."""
    strategy: DefaultStrategy = field(default_factory=lambda: DefaultStrategy(refine_stop_iter=0))
    """Density control; off by default."""


_STEPS = ("max_steps", "sh_degree_interval", "steps_per_fix", "fix_start", "eval_steps", "save_steps", "fix_steps")
_STRATEGY_STEPS = ("refine_start_iter", "refine_stop_iter", "reset_every", "refine_every", "pause_refine_after_reset")


def scaled(config: Config) -> Config:
    """The settings with every number of steps multiplied by ``steps_scaler``, which becomes 1."""
    factor = config.steps_scaler
    if factor <= 0:
        raise InputError(f"steps_scaler must be positive, got {factor}")
    steps = {name: _times(getattr(config, name), factor) for name in _STEPS}
    inner = {n: _times(getattr(config.strategy, n), factor) for n in _STRATEGY_STEPS if hasattr(config.strategy, n)}
    return replace(config, **steps, strategy=replace(config.strategy, **inner), steps_scaler=1.0)


def _times(value: Any, factor: float) -> Any:
    """Steps times the factor, at least 1: some are divisors, and 0, which stays 0, turns things off."""
    if isinstance(value, list):
        return [_times(step, factor) for step in value]
    return value and max(1, int(value * factor))


def check(config: Config) -> None:
    """Refuse settings that cannot work.

    Raises:
        InputError: naming the flag and its value.
    """
    if not config.export_formats:
        raise InputError("export_formats names no format; to write none, use --no-save_ply")
    for name in set(config.export_formats) - {"ply"}:
        require_gsply(f"--export_formats {name}")
    positive = dict.fromkeys(("max_steps", "data_factor", "batch_size", "sh_degree_interval"), (1, math.inf))
    check_limits(config, sh_degree=(0, 3), ssim_lambda=(0, 1), **positive)
    check_limits(config, opacity_reg=(0, math.inf), scale_reg=(0, math.inf))
    if config.all_gpus and getattr(config.strategy, "absgrad", False):
        raise InputError("gsplat knows no --strategy.absgrad on several GPUs: leave out that or --all_gpus")
    if config.all_gpus and not config.disable_viewer:
        raise InputError("the viewer shows runs on one device: leave out --all_gpus, or leave the viewer disabled")
    config.check()
    config.check_geometry()
