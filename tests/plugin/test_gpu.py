# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from runs import run, tiny_config

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("nerf", [False, True])
def test_a_run_on_cuda(capture, tmp_path, nerf):
    config = tiny_config(capture, tmp_path, nerf=nerf)
    config.machine.device_type, config.mixed_precision = "cuda", nerf
    trainer = run(config)
    assert trainer.pipeline.device.type == "cuda"
    assert trainer.pipeline.repairs.summary()["rounds"] == 2
    assert all(torch.isfinite(parameter).all() for parameter in trainer.pipeline.model.parameters())
