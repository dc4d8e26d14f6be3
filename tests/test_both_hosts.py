# SPDX-License-Identifier: Apache-2.0
"""The algorithm is one: nerfstudio's pipeline and gsplat_trainer agree on what they repair and on what they learn."""

import pytest
import torch
from runs import run, start, tiny_config
from scipy.spatial import KDTree
from splat_runs import CPU, go, tiny
from toy import move_capture, write_capture
from toy_enhancer import Mixer

from gsplat_trainer.scene import load_data
from gsplat_trainer.trainer import Trainer
from harmonizer_ns.distill import repairs
from harmonizer_ns.plugin.pseudo import pseudo_view_loss
from harmonizer_ns.poses import quaternion_to_rotation


def nerfstudio_config(capture, folder, **changes):
    """A run in the capture's own frame, on black, at full size and with one degree of colour every ten steps."""
    config = tiny_config(capture, folder, final_report=False, **changes)
    parser, model = config.pipeline.datamanager.dataparser, config.pipeline.model
    parser.orientation_method, parser.center_method, parser.auto_scale_poses = "none", "none", False
    model.background_color, model.num_downscales, model.sh_degree_interval = "black", 0, 10
    return config


def test_both_hosts_agree_on_a_round_and_on_a_training_step(capture, tmp_path, monkeypatch):
    theirs, ours = Mixer(), Mixer()
    mixers = iter([theirs, ours])
    monkeypatch.setattr(repairs, "load_enhancer", lambda name: next(mixers))
    host = start(nerfstudio_config(capture, tmp_path / "n"))
    pipeline, gauss = host.pipeline, host.pipeline.model.gauss_params
    settings = tiny(capture, tmp_path / "g", sh_degree=2)
    trainer = Trainer(settings, load_data(settings), CPU)
    names = {name: name for name in trainer.splats} | {"sh0": "features_dc", "shN": "features_rest"}
    for name, value in trainer.splats.items():
        value.data = gauss[names[name]].detach().reshape(value.shape).clone()
    pipeline.model.step = trainer.step = 10

    pipeline.repairs.run(10)
    trainer.repairs.run(10)
    first, second = pipeline.repairs.store.stored, trainer.repairs.store.stored
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a.camera.camera_to_world, b.camera.camera_to_world, atol=1e-5, rtol=0)
        torch.testing.assert_close(a.camera.intrinsics, b.camera.intrinsics)
        assert (a.step, a.target) == (b.step, b.target)
        assert (a.weight.float() - b.weight.float()).abs().mean() < 0.5  # of 255: float32 order of operations
        assert (a.rgb.float() - b.rgb.float()).abs().mean() < 0.5
    for a, b in zip(theirs.contexts, ours.contexts, strict=True):
        torch.testing.assert_close(a.references[0].rgb, b.references[0].rgb, atol=1e-3, rtol=0)
        torch.testing.assert_close(
            a.references[0].cameras.camera_to_world, b.references[0].cameras.camera_to_world, atol=1e-5, rtol=0
        )
    assert [d is None for d in map(pipeline.repairs.draw, range(11, 20))] == [
        d is None for d in map(trainer.repairs.draw, range(11, 20))
    ]

    pipeline.train()
    host.callbacks[0].run_callback(10)  # gives the model its step and optimizers
    view = first[0].decode()
    loss, _ = pseudo_view_loss(pipeline.model, view, rays=0, camera_index=0)
    _, losses = trainer.objective.pseudo_view(trainer.splats, trainer.degree, view)
    torch.testing.assert_close(loss, losses["pseudo"])
    loss.backward()
    losses["pseudo"].backward()
    for name, value in trainer.splats.items():
        torch.testing.assert_close(gauss[names[name]].grad.reshape(value.shape), value.grad, atol=1e-8, rtol=1e-3)


def test_the_enhancer_none_trains_the_plain_method_in_both_hosts(capture, tmp_path):
    plain = {"pipeline__enhancer": "none", "pipeline__steps_per_fix": 0}
    host, without = (
        run(nerfstudio_config(capture, tmp_path / name, max_num_iterations=12, **changes))
        for name, changes in (("n", {"pipeline__enhancer": "none"}), ("n0", plain))
    )
    assert host.pipeline.config.steps_per_fix == 10
    assert host.pipeline.repairs.summary()["rounds"] == 0
    assert torch.equal(host.pipeline.model.means, without.pipeline.model.means)

    trainer, without = (
        go(tiny(capture, tmp_path / name, max_steps=12, enhancer="none", steps_per_fix=steps))
        for name, steps in (("g", 10), ("g0", 0))
    )
    assert trainer.repairs.summary() == host.pipeline.repairs.summary()
    assert torch.equal(trainer.splats["means"], without.splats["means"])


@pytest.mark.parametrize("offset", [(0, 0, 0), (458123.0, 5432345.0, 120.0)])
def test_both_hosts_begin_at_the_same_surfaces(tmp_path, offset):
    """Each looks at the photos in its own frame: nerfstudio's turned and scaled one, and gsplat's normalised one."""
    capture = move_capture(write_capture(tmp_path / "capture"), offset)
    host = start(tiny_config(capture, tmp_path / "n", pipeline__seeds="auto"))
    model = host.pipeline.model
    transform = host.base_dir / "dataparser_transforms.json"
    host.pipeline.datamanager.train_dataparser_outputs.save_dataparser_transform(transform)
    settings = tiny(capture, tmp_path / "g", seeds="auto", normalize_world_space=True)
    trainer = Trainer(settings, load_data(settings), CPU)
    way = trainer.scene.nerfstudio_frame(transform)
    assert abs(way.scale - 1) > 0.01
    ours, theirs = way.points(trainer.splats["means"].detach()), model.means.detach()
    assert abs(len(ours) - len(theirs)) <= 0.01 * len(ours)
    distance, place = KDTree(theirs.numpy()).query(ours.numpy())
    near = torch.from_numpy(distance) < 1e-3  # of a scene in [-1, 1]: here and there another plane wins by a hair
    assert near.float().mean() > 0.9
    flat = near & (trainer.splats["scales"][:, 2] < trainer.splats["scales"][:, 0])
    assert flat.float().mean() > 0.5
    turn = (way.matrix[:3, :3] / way.scale).float()
    normals = quaternion_to_rotation(trainer.splats["quats"].detach())[:, :, 2] @ turn.T
    others = torch.nn.functional.normalize(model.quats.detach()[place], dim=-1)
    alike = (normals * quaternion_to_rotation(others)[:, :, 2]).sum(-1)
    assert (alike[flat] > 0.99).float().mean() > 0.9
    width = trainer.splats["scales"][:, 0].exp() * way.scale / model.scales[place, 0].exp()
    assert (width[flat].log().abs() < 0.05).float().mean() > 0.9
