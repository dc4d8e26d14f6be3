# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from runs import start, tiny_config

from harmonizer_ns.plugin.pseudo import pseudo_view_losses
from harmonizer_ns.types import PseudoView


def losses(trainer, weight, rgb=None):
    camera = trainer.pipeline.photos.cameras[0]
    shape = (3, camera.height, camera.width)
    view = PseudoView(torch.full(shape, 0.25) if rgb is None else rgb, weight.expand(1, *shape[1:]), camera, 0, 0)
    torch.manual_seed(0)
    trainer.pipeline.train()
    for callback in trainer.callbacks[:1]:
        callback.run_callback(0)
    return pseudo_view_losses(trainer.pipeline.model, view, rays=256, camera_index=0)


@pytest.fixture(params=[False, True], ids=["splat", "nerf"])
def trainer(request, capture, tmp_path):
    return start(tiny_config(capture, tmp_path, nerf=request.param, pipeline__steps_per_fix=0))


def test_loss_grows_with_the_weight(trainer):
    name = "main_loss" if "main_loss" in losses(trainer, torch.ones(1))[1] else "rgb_loss"
    values = [losses(trainer, torch.tensor([weight]))[1][name].item() for weight in (0.1, 0.5, 1.0)]
    assert values[0] < values[1] < values[2]


def test_agreement_with_a_repair_is_not_reported_as_psnr(trainer):
    metrics = losses(trainer, torch.ones(1))[2]
    assert "psnr" not in metrics
    assert "pseudo_psnr" in metrics


def test_pseudo_views_have_no_say_in_densification(capture, tmp_path):
    trainer = start(tiny_config(capture, tmp_path, pipeline__steps_per_fix=0))
    _, terms, _ = losses(trainer, torch.ones(1))
    sum(terms.values()).backward()
    model = trainer.pipeline.model
    model.step_post_backward(model.step)
    assert model.strategy_state["count"].max() == 0
    assert model.means.grad is not None
    assert model.means.grad.abs().max() > 0
