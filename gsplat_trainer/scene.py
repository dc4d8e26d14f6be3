# SPDX-License-Identifier: Apache-2.0
"""A run works on a scene: a capture, the splats that it begins with, and their repairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gsplat_trainer.config import Config, HarmonizeConfig
from gsplat_trainer.distributed import World
from harmonizer_ns.captures.capture import Capture, load_capture
from harmonizer_ns.captures.frame import Similarity
from harmonizer_ns.distill.repairs import Repairs
from harmonizer_ns.distill.targets import PoseTransform, load_camera_path
from harmonizer_ns.enhancers.gpu_sharing import ParkedEnhancer
from harmonizer_ns.enhancers.identity import IdentityEnhancer
from harmonizer_ns.errors import InputError
from harmonizer_ns.splats.files import read_splats
from harmonizer_ns.splats.model import MIN_POINTS, Splats, seed_splats
from harmonizer_ns.splats.rendering import check_seen
from harmonizer_ns.splats.seeding import choose_seeds
from harmonizer_ns.stereo.fusion import Seeds
from harmonizer_ns.stereo.geometry import Geometry, photo_geometry
from harmonizer_ns.types import Renderer

_SOLID = 0.5


def prepare(config: Config) -> tuple[Config, Capture, Splats | None]:
    """Read what the settings name: a capture, and the splats that a run begins with unless it makes its own.

    Splats to be repaired keep their frame, so settings and capture are brought into it.

    Raises:
        InputError: on splats or a capture that cannot be used, or that do not fit together.
    """
    if config.ckpt:
        scene = load_data(config)
        return config, scene, read_splats(*config.ckpt, origin=scene.origin)
    if not isinstance(config, HarmonizeConfig):
        return config, load_data(config), None
    if not config.ply:
        raise InputError("give the splats with --ply (.ply, .spz, .pt or .ckpt)")
    if config.camera_path_transform is not None:
        raise InputError("harmonize reads camera paths in the splats' own frame, without --camera_path_transform")
    if config.data_dir is None:
        config, splats = _without_photos(config), read_splats(*config.ply)
        return config, _path_scene(config, splats), splats
    if config.normalize_world_space:
        raise InputError("harmonize keeps the splats' own frame; say which it is with --ply_transform")
    scene = load_data(config).in_frame(config.ply_transform)
    splats = read_splats(*config.ply, origin=scene.origin)
    check_seen(splats, scene.train_cameras)
    return config, scene, splats


def load_data(config: Config) -> Capture:
    """Read the capture that the settings name, in gsplat's normalised frame where that is asked for.

    Raises:
        InputError: naming what is wrong with it.
    """
    if config.data_dir is None:
        raise InputError("give the capture's folder with --data_dir")
    capture = load_capture(
        config.data_dir,
        factor=config.data_factor,
        spare=config.result_dir,
        form=config.data_format,
        masks=config.mask_dir,
        alpha=config.alpha,
        train_list=config.train_list,
        test_list=config.test_list,
        test_every=config.test_every,
        with_tracks=config.depth_loss or config.seeds != "capture" or config.depth_weight > 0,
    )
    return capture.in_frame("gsplat") if config.normalize_world_space else capture


def _without_photos(config: HarmonizeConfig) -> HarmonizeConfig:
    """Settings for a run in which no photo can confirm a repair, so that the enhancer's own confidence has to do."""
    if config.targets != "path" or config.camera_path is None:
        raise InputError(
            "without photos (--data_dir) give --targets path --camera_path FILE; see --help for its limits"
        )
    return replace(config, gate=replace(config.gate, unseen_weight=1.0))


def _path_scene(config: HarmonizeConfig, splats: Splats) -> Capture:
    """A scene without photos: the path's cameras stand for where the splats are looked at."""
    assert config.camera_path is not None
    cameras = load_camera_path(config.camera_path)
    points = splats["means"][torch.sigmoid(splats["opacities"]) > _SOLID]
    names = tuple(f"{config.camera_path}: camera {i}" for i in range(len(cameras)))
    return Capture(str(config.camera_path), names, cameras, points, torch.zeros_like(points), _no_photo)


def _no_photo(index: int) -> tuple[Tensor, None]:
    raise InputError(f"there is no photo {index}: this run has a camera path only")


def find_geometry(
    config: Config, scene: Capture, device: torch.device, world: World, say: Callable[[str], None], *, for_seeds: bool
) -> Geometry | None:
    """Look at the photos where the settings ask for what these give. All ranks must call it; the first one looks.

    Args:
        config: settings of the run.
        scene: what to learn.
        device: where to look.
        world: which process this is.
        say: told how far it is.
        for_seeds: whether the run makes its own splats, so that it may want seed points.
    """
    from_photos = for_seeds and config.seeds != "capture" and config.init_type != "random"
    taught = config.depth_weight > 0 and bool(scene.train) and not config.ckpt
    if not from_photos and not taught:
        return None
    folder = config.geometry_dir or config.result_dir
    return world.share(photo_geometry(scene, folder, config.stereo, device, say) if world.is_first else None)


def first_splats(config: Config, scene: Capture, found: Seeds | None, say: Callable[[str], None]) -> dict[str, Tensor]:
    """Make Gaussians at seed points or at random ones, round ones turned at random as gsplat's are.

    Args:
        config: settings of the run.
        scene: what to learn.
        found: seed points that its photos give; None: they were not looked at.
        say: told what could not be had.

    Raises:
        InputError: when there are too few points for ``init_type sfm``.
    """
    generator = torch.Generator().manual_seed(config.seed)
    if config.init_type == "random":
        cube = torch.rand(config.init_num_pts, 3, generator=generator) * 2 - 1
        points = config.init_extent * scene.extent * config.global_scale * cube
        colors = torch.rand(config.init_num_pts, 3, generator=generator)
        seeds = Seeds(points, colors, torch.zeros_like(points))
    else:
        seeds = choose_seeds(scene, found, config.seeds, say)
    if len(seeds) < MIN_POINTS:
        raise InputError(
            f"{scene.name} has {len(seeds)} seed points, at least {MIN_POINTS} are needed; use --init_type random"
        )
    quats = torch.rand(len(seeds), 4, generator=generator)
    return seed_splats(
        seeds.points, seeds.colors, config.sh_degree, config.init_opa, config.init_scale, quats, seeds.normals
    )


def make_repairs(
    config: Config, scene: Capture, renderer: Renderer, world: World, say: Callable[[str], None]
) -> Repairs:
    """Plan the repairs of a run. Only the first rank repairs, so only it loads an enhancer."""
    repairs = Repairs(config, scene, renderer, say)
    if not world.is_first:
        repairs.enhancer = ParkedEnhancer(IdentityEnhancer())
    repairs.plan(0, config.max_steps - 1, scene.test_cameras, _path_transform(config, scene))
    return repairs


def _path_transform(config: Config, scene: Capture) -> PoseTransform | None:
    """The way from the frame of a camera path into the scene's, if the settings name one, or the scene is far away."""
    if config.camera_path_transform is not None:
        return scene.nerfstudio_frame(config.camera_path_transform).inverse().poses
    return Similarity.translation(-scene.origin).poses if scene.origin.any() else None
