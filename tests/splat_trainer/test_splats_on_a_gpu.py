# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch
from pretended_cuda import CUDA
from splat_runs import tiny

from gsplat_trainer import checkpoint
from gsplat_trainer.__main__ import run
from gsplat_trainer.config import DefaultConfig, McmcConfig, check
from gsplat_trainer.distributed import World

pytestmark = pytest.mark.gpu
KINDS = {
    "default": (DefaultConfig, {"antialiased": True, "pose_opt": True, "app_opt": True}),
    "mcmc": (McmcConfig, {}),
    "packed": (DefaultConfig, {"packed": True}),
    "visible_adam": (DefaultConfig, {"visible_adam": True}),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_run_on_a_gpu_learns_repairs_and_goes_on(name, capture, tmp_path):
    """Kernels add gradients in any order there, so that a resumed run is near to the whole one, not the same."""
    kind, changes = KINDS[name]
    config = tiny(capture, tmp_path / "whole", kind, enhancer="builtin", num_targets=2, save_steps=[15], **changes)
    check(config)
    whole = run(config, CUDA, World())
    assert whole.is_finished
    assert whole.repairs.summary()["failed_rounds"] == 0
    assert whole.skipped.count == 0
    saved = checkpoint.full_path(tmp_path / "whole" / "ckpts", 14, 0)
    resumed = run(replace(config, result_dir=tmp_path / "resumed", resume=saved), CUDA, World())
    figures = [trainer.evaluate(29) for trainer in (whole, resumed)]
    assert all(value.is_cuda and value.isfinite().all() for value in resumed.splats.values())
    assert abs(figures[0]["psnr"] - figures[1]["psnr"]) < 1.0
    assert torch.cuda.max_memory_allocated() > 0
