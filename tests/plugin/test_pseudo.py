# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
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
        monkeypatch.setattr(pipeline.repairs, "draw", lambda step, view=view: view)
        model.zero_grad()
        _, losses, metrics = pipeline.get_train_loss_dict(0)
        assert ("pseudo_loss" in losses) == ("pseudo_psnr" in metrics) == (view is not None)
        assert "main_loss" in losses
        sum(losses.values()).backward()
        statistics.append((model.info["means2d"].absgrad.clone(), model.means.grad.clone()))
    (from_photo, photo_gradient), (from_both, both_gradient) = statistics
    assert torch.equal(from_photo, from_both)
    assert not torch.equal(photo_gradient, both_gradient)


@pytest.mark.parametrize("share", [0.4, 1.1])
def test_share_of_photos_is_checked(capture, tmp_path, share):
    with pytest.raises(SystemExit, match="photo_share"):
        start(tiny_config(capture, tmp_path, pipeline__photo_share=share))
