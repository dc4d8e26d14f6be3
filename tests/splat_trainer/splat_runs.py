# SPDX-License-Identifier: Apache-2.0
"""COLMAP captures of the toy scene, and short real runs on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import torch
from PIL import Image
from toy import arc_cameras, gaussian_scene, render_scene
from toy_enhancer import ToyEnhancer

from gsplat_trainer.__main__ import run
from gsplat_trainer.config import Config, DefaultConfig, McmcConfig, check
from gsplat_trainer.distributed import World
from gsplat_trainer.trainer import Trainer
from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.warp import backward_warp

CPU = torch.device("cpu")


class Mixer(ToyEnhancer):
    """An enhancer that mixes the render with the nearest photo, and remembers what it was given."""

    max_references = 2

    def __init__(self):
        self.calls, self.fail_at, self.contexts, self.cameras = 0, -1, [], []

    def enhance(self, frames, context=Context()):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.contexts.append(context)
        self.cameras.append(frames.cameras)
        confidence = torch.full_like(frames.alpha, 0.9)
        if not context.references or context.references[0] is None:
            return Repaired(frames.rgb * 0.9, confidence)
        photo = context.references[0][0:1]
        warped = backward_warp(photo, frames.depth, frames.cameras)
        return Repaired(torch.lerp(frames.rgb, warped.rgb, 0.5 * warped.valid), confidence)


def write_colmap(folder, count=10, width=64, height=48, text=False, model="PINHOLE", params=None, names=None):
    """A COLMAP capture of the toy scene; every point is seen by every photo whose frustum holds it."""
    scene, cameras = gaussian_scene(), arc_cameras(count, width, height)
    photos = (render_scene(scene, cameras) * 255).round().byte()
    names = names or [f"photo {i}.png" for i in range(count)]
    focal = cameras.intrinsics[0, 0, 0].item()
    default = [focal, focal, width / 2, height / 2] if model == "PINHOLE" else [focal, width / 2, height / 2]
    camera = pycolmap.Camera(model=model, width=width, height=height, params=params or default, camera_id=1)
    reconstruction = pycolmap.Reconstruction()
    reconstruction.add_camera_with_trivial_rig(camera)
    world_to_camera = cameras.world_to_camera.double().numpy()
    for i, name in enumerate(names):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photos[i].permute(1, 2, 0).numpy()).save(path)
        points = [pycolmap.Point2D(np.array([1.0, 1.0])) for _ in range(3)]
        image = pycolmap.Image(name=name, camera_id=1, image_id=i + 1)
        image.points2D = pycolmap.Point2DList(points)
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(world_to_camera[i][:3]))
    for k, (xyz, color) in enumerate(zip(scene["means"], scene["colors"], strict=True)):
        track = pycolmap.Track()
        if k < 3:
            for i in range(len(names)):
                track.add_element(i + 1, k)
        reconstruction.add_point3D(xyz.double().numpy(), track, (color * 255).byte().numpy())
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    (reconstruction.write_text if text else reconstruction.write_binary)(str(sparse))
    return folder


def tiny(data: Path | None, output: Path, kind: type[Config] = DefaultConfig, **changes) -> Config:
    """30 steps with rounds at 10 and 20 and density control on the way."""
    config = kind(
        data_dir=data,
        data_factor=1,
        result_dir=output,
        test_every=5,
        max_steps=30,
        eval_steps=[],
        save_steps=[],
        fix_start=10,
        steps_per_fix=10,
        num_targets=3,
        photo_share=0.6,
        sh_degree=1,
        sh_degree_interval=10,
        lpips_net="none",
        render_traj_path="none",
        device="cpu",
        seed=1,
    )
    if kind in (DefaultConfig, McmcConfig):
        steps = {"refine_start_iter": 4, "refine_stop_iter": 25, "refine_every": 5}
        steps |= {"cap_max": 900} if kind is McmcConfig else {}
        config = replace(config, strategy=replace(config.strategy, **steps))
    return replace(config, **changes)


def go(config: Config) -> Trainer:
    check(config)
    return run(config, CPU, World())
