# SPDX-License-Identifier: Apache-2.0
"""Short real runs of gsplat_trainer."""

from dataclasses import replace
from pathlib import Path

import torch

from gsplat_trainer.__main__ import run
from gsplat_trainer.config import Config, DefaultConfig, McmcConfig, check
from gsplat_trainer.distributed import World
from gsplat_trainer.trainer import Trainer

CPU = torch.device("cpu")


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
        final_report=False,
        device="cpu",
        seed=1,
        seeds="capture",
    )
    if kind in (DefaultConfig, McmcConfig):
        steps = {"refine_start_iter": 4, "refine_stop_iter": 25, "refine_every": 5}
        steps |= {"cap_max": 900} if kind is McmcConfig else {}
        config = replace(config, strategy=replace(config.strategy, **steps))
    return replace(config, **changes)


def go(config: Config) -> Trainer:
    check(config)
    return run(config, CPU, World())
