# SPDX-License-Identifier: Apache-2.0
"""The project on a pretended GPU: nothing mixes devices, and hot paths copy and wait no more than they did."""

from dataclasses import replace

import pytest
import torch
from plane_scene import PlaneCapture, PlaneRenderer, plane_points, row_of_cameras
from pretended_cuda import CUDA, Counts, counted
from runs import start, tiny_config
from splat_runs import tiny

from gsplat_trainer import checkpoint
from gsplat_trainer.config import McmcConfig
from gsplat_trainer.scene import load_data
from gsplat_trainer.trainer import Trainer
from harmonizer_ns.distill.repairs import Repairs
from harmonizer_ns.distill.settings import DistillSettings
from harmonizer_ns.distill.store import encode
from harmonizer_ns.distill.view_files import views_folder
from harmonizer_ns.enhancers.builtin.enhancer import BuiltinEnhancer
from harmonizer_ns.enhancers.stream import EnhancerStream
from harmonizer_ns.types import Cameras, Frames, PseudoView
from harmonizer_ns.viewing.gui import ViewSettings
from harmonizer_ns.viewing.picture import compose
from harmonizer_ns.viewing.session import ViewSession

pytestmark = pytest.mark.usefixtures("gpu")
CAMERAS = row_of_cameras(6, 0.1, width=96, height=64, focal=80.0)
PHOTO = 3 * 64 * 48
"""Bytes of a photo of the toy captures."""
PSEUDO = 7 * 64 * 48
"""Of a pseudo-view: render, repair and weight."""
CAMERA = 4 * (16 + 9)


class OnTheDevice(PlaneRenderer):
    """Renders the plane there."""

    def render(self, cameras: Cameras) -> Frames:
        return super().render(cameras.to("cpu")).to("cuda")


def frames(*numbers: int) -> list[Frames]:
    return [OnTheDevice().render(CAMERAS[i]) for i in numbers]


def assert_at_most(counts: Counts, **limits: int) -> None:
    assert all(getattr(counts, name) <= most for name, most in limits.items()), f"{limits}\n{counts}"


@torch.no_grad()
def test_a_stream_waits_little_and_moves_no_image():
    stream, (photo, *before, frame) = EnhancerStream(BuiltinEnhancer.from_pretrained(device="cuda")), frames(0, 1, 2, 3)
    for each in before:
        stream.enhance(each, photo)
    with counted() as counts:
        shown = stream.enhance(frame, photo)
    assert shown.rgb.is_cuda
    assert_at_most(counts, waits=1, up=0, down=1, down_bytes=16)  # is it a cut


def test_a_viewer_waits_little_and_moves_no_image():
    session = ViewSession(lambda name: BuiltinEnhancer.from_pretrained(device="cuda"))
    settings, (photo, first, second) = ViewSettings(show="before | after"), frames(0, 1, 2)
    enhanced = session.enhance("client", first, settings, lambda view: photo, 0)
    compose(first.rgb, enhanced.rgb, settings)  # brings the labels' letters up once
    with counted() as counts:
        enhanced = session.enhance("client", second, settings, lambda view: photo, 0)
        picture = compose(second.rgb, enhanced.rgb, settings)
    assert picture.is_cuda
    assert_at_most(counts, waits=3, up=0, down=2, down_bytes=32)  # has the camera moved, is it a cut, is it finite


def test_a_round_brings_photos_up_once_and_bytes_down():
    settings = DistillSettings(fix_start=10, steps_per_fix=10, num_targets=2, enhancer="builtin")
    repairs = Repairs(settings, PlaneCapture(CAMERAS, plane_points(), bytes_=True), OnTheDevice(damage=0.2))
    repairs.plan(0, 100, [])
    repairs.enhancer.to("cuda")
    with counted() as counts:
        report = repairs.run(10)
    views, pixels = len(report.used), 96 * 64
    assert views == len(repairs.store) == 2
    assert {view.rgb.device.type for view in repairs.store.stored} == {"cpu"}
    # Is there something to see, is the repair finite, how far is it trusted; the view itself, and its photo.
    assert_at_most(counts, waits=5 * views, down=3 * views, down_bytes=(7 + 3) * pixels * views + 100)


def test_gsplat_trainer_learns_measures_and_goes_on(capture, tmp_path):
    options = {"enhancer": "builtin", "num_targets": 1, "num_references": 1, "trust": "lasting", "pose_opt": True}
    config = tiny(capture, tmp_path, **options)
    trainer = Trainer(config, load_data(config), CUDA)
    trainer.repairs.run(10)
    trainer.learn(10)  # with density control
    steps = []
    for probability in (0.0, 1.0):
        trainer.repairs.sampler.pseudo_probability = probability
        with counted() as counts:
            losses = trainer.learn(12)
        assert ("pseudo" in losses) == bool(probability)
        steps.append(counts)
    photo, both = steps
    assert_at_most(photo, waits=4, up=4, up_bytes=PHOTO + CAMERA + 8, down=0)  # 3 waits are gsplat's
    assert_at_most(both, waits=4, up=7, up_bytes=PHOTO + 2 * CAMERA + 8 + PSEUDO, down=0)
    trainer.step = 12
    trainer.save(12)
    assert trainer.evaluate(12)["psnr"] > 5
    again = Trainer(replace(config, result_dir=tmp_path / "again"), load_data(config), CUDA)
    saved = checkpoint.newest_full(tmp_path / "ckpts", 0)
    again.load_state_dict(checkpoint.load_full(saved), views_folder(saved.parent))
    again.learn(13)


def test_mcmc_moves_and_adds_splats(capture, tmp_path):
    config = tiny(capture, tmp_path, McmcConfig, enhancer="none")
    trainer = Trainer(config, load_data(config), CUDA)
    trainer.splats["opacities"].data[:9] = -9.0  # dead
    before = len(trainer.splats["means"])
    trainer.learn(5)
    assert len(trainer.splats["means"]) > before
    assert all(value.is_cuda and value.isfinite().all() for value in trainer.splats.values())


@pytest.mark.parametrize("nerf", [False, True])
def test_nerfstudio_learns_and_renders(capture, tmp_path, nerf):
    config = tiny_config(capture, tmp_path, nerf=nerf, pipeline__enhancer="builtin", pipeline__trust="lasting")
    config.machine.device_type, config.mixed_precision = "cuda", nerf
    trainer = start(config)
    pipeline = trainer.pipeline
    camera = pipeline.photos.cameras[0].to("cpu").resized(16, 12)
    rendered = pipeline.repairs.renderer.render(camera)
    assert rendered.rgb.is_cuda
    pseudo = PseudoView(rendered.rgb[0] * 0.9, rendered.rgb[0], rendered.alpha[0] + 1, camera, 10, 0)
    pipeline.repairs.store.add([encode(pseudo)])
    pipeline.train()
    trainer.callbacks[0].run_callback(12)  # gives a splat its step and optimizers
    pipeline.repairs.sampler.pseudo_probability = 0.0
    trainer.train_iteration(11)  # photos come up once
    steps = []
    for probability in (0.0, 1.0):
        pipeline.repairs.sampler.pseudo_probability = probability
        with counted() as counts:
            _, losses, _ = trainer.train_iteration(12)
        assert ("pseudo_loss" in losses) == bool(probability)
        steps.append(counts)
    photo, both = steps
    assert_at_most(both, up_bytes=photo.up_bytes + 7 * 16 * 12 + 1500, down_bytes=photo.down_bytes + 100)
    assert all(parameter.is_cuda for parameter in pipeline.model.parameters())
