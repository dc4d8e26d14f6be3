# SPDX-License-Identifier: Apache-2.0
from copy import deepcopy

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from runs import start, tiny_config

from harmonizer_ns.plugin.pseudo import pseudo_view_loss
from harmonizer_ns.types import PseudoView


def brighter_view(trainer, weight):
    camera = trainer.pipeline.photos.cameras[0]
    size = (camera.height, camera.width)
    return PseudoView(torch.ones(3, *size), torch.zeros(3, *size), torch.full((1, *size), weight), camera, 0, 0)


def loss(trainer, weight):
    torch.manual_seed(0)
    trainer.pipeline.train()
    for callback in trainer.callbacks[:1]:
        callback.run_callback(0)
    return pseudo_view_loss(trainer.pipeline.model, brighter_view(trainer, weight), rays=256, camera_index=0)[0]


@pytest.mark.parametrize("nerf", [False, True])
def test_loss_grows_with_the_weight(capture, tmp_path, nerf):
    trainer = start(tiny_config(capture, tmp_path, nerf=nerf, pipeline__steps_per_fix=0))
    values = [loss(trainer, weight).item() for weight in (0.1, 0.5, 1.0)]
    assert values[0] < values[1] < values[2]


def test_a_pseudo_view_comes_on_top_of_a_photo_and_has_no_say_in_densification(capture, tmp_path, monkeypatch):
    trainer = start(tiny_config(capture, tmp_path))
    pipeline, model = trainer.pipeline, trainer.pipeline.model
    model.config.background_color = "black"
    loss(trainer, 1.0)  # gives the model its step and optimizers
    photo = pipeline.datamanager.next_train(0)
    monkeypatch.setattr(pipeline.datamanager, "next_train", lambda step: photo)
    statistics = []
    for view in (None, brighter_view(trainer, 1.0)):
        monkeypatch.setattr(pipeline.repairs, "draw", lambda step, device, view=view: view)
        model.zero_grad()
        _, losses, metrics = pipeline.get_train_loss_dict(0)
        assert ("pseudo_loss" in losses) == ("pseudo_psnr" in metrics) == (view is not None)
        assert "main_loss" in losses
        sum(losses.values()).backward()
        statistics.append((model.info["means2d"].absgrad.clone(), model.means.grad.clone()))
    (from_photo, photo_gradient), (from_both, both_gradient) = statistics
    assert torch.equal(from_photo, from_both)
    assert not torch.equal(photo_gradient, both_gradient)


@pytest.fixture
def nerf(capture, tmp_path):
    """A NeRF that also learns its photos' poses; its next photo rays train the proposal networks."""
    config = tiny_config(capture, tmp_path, nerf=True)
    config.pipeline.model.camera_optimizer = CameraOptimizerConfig(mode="SO3xR3")
    trainer = start(config)
    trainer.pipeline.train()
    sampler = trainer.pipeline.model.proposal_sampler
    sampler._step, sampler._steps_since_update = 100, 7
    return trainer


def gradients(model, loss):
    groups = model.get_param_groups()
    parameters = [parameter for group in groups.values() for parameter in group]
    found = iter(torch.autograd.grad(loss, parameters, allow_unused=True))
    return {name: [next(found) for _ in group] for name, group in groups.items()}


def test_a_pseudo_view_teaches_a_nerf_where_to_look_but_no_poses(nerf):
    model = nerf.pipeline.model
    with torch.no_grad():
        model.camera_optimizer.pose_adjustment.fill_(10.0)
    value = loss(nerf, 1.0)
    found = gradients(model, value)
    assert all(gradient.abs().sum() > 0 for gradient in found["proposal_networks"] + found["fields"])
    assert found["camera_opt"] == [None]
    with torch.no_grad():
        model.camera_optimizer.pose_adjustment.zero_()
    assert loss(nerf, 1.0) == value
    assert model.camera_optimizer.config.mode == "SO3xR3"


def test_a_pseudo_view_changes_nothing_that_a_photo_teaches_a_nerf(nerf, monkeypatch):
    pipeline, model = nerf.pipeline, nerf.pipeline.model
    photo, learned = pipeline.datamanager.next_train(0), []

    def next_photo(step):
        torch.manual_seed(0)
        return deepcopy(photo)

    monkeypatch.setattr(pipeline.datamanager, "next_train", next_photo)
    for view in (None, brighter_view(nerf, 1.0)):
        model.proposal_sampler._steps_since_update = 7
        monkeypatch.setattr(pipeline.repairs, "draw", lambda step, device, view=view: view)
        _, losses, _ = pipeline.get_train_loss_dict(0)
        assert (losses.pop("pseudo_loss", None) is None) == (view is None)
        learned.append((losses, gradients(model, sum(losses.values()))))
    assert {"rgb_loss", "interlevel_loss", "distortion_loss", "camera_opt_regularizer"} == set(learned[0][0])
    torch.testing.assert_close(*learned, rtol=0, atol=0)
    assert all(gradient.any() for gradient in learned[1][1]["proposal_networks"])


@pytest.mark.parametrize("share", [0.4, 1.1])
def test_share_of_photos_is_checked(capture, tmp_path, share):
    with pytest.raises(SystemExit, match="photo_share"):
        start(tiny_config(capture, tmp_path, pipeline__photo_share=share))
