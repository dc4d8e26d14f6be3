# SPDX-License-Identifier: Apache-2.0
"""Short real runs of the plugin, for tests."""

from copy import deepcopy
from pathlib import Path

from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils import writer

from harmonizer_ns.plugin.method import harmonize_nerf_tiny, harmonize_tiny
from harmonizer_ns.plugin.trainer import HarmonizeTrainerConfig
from harmonizer_ns.random_state import seed_all


def tiny_config(data: Path, output: Path, *, nerf: bool = False, **changes: object) -> HarmonizeTrainerConfig:
    """harmonize-tiny cut down to 30 steps with rounds at 10 and 20; keyword ``pipeline__x`` sets ``pipeline.x``."""
    config = deepcopy((harmonize_nerf_tiny if nerf else harmonize_tiny).config)
    assert isinstance(config, HarmonizeTrainerConfig)
    config.data = config.pipeline.datamanager.data = data
    config.output_dir, config.experiment_name, config.timestamp = output, "test", "run"
    config.max_num_iterations, config.steps_per_save, config.steps_per_eval_image = 30, 10, 0
    config.save_only_latest_checkpoint = False
    config.pipeline.fix_start = config.pipeline.steps_per_fix = 10
    config.pipeline.num_targets, config.pipeline.photo_share = 3, 0.6
    config.pipeline.seeds, config.pipeline.depth_weight = "capture", 0.0
    if not nerf:
        config.pipeline.model.warmup_length, config.pipeline.model.refine_every = 5, 5
        config.pipeline.model.resolution_schedule = 15
    for name, value in changes.items():
        owner = config.pipeline if name.startswith("pipeline__") else config
        setattr(owner, name.removeprefix("pipeline__"), value)
    return config


def start(config: HarmonizeTrainerConfig) -> Trainer:
    """A set-up trainer, as ``ns-train`` makes it."""
    writer.EVENT_WRITERS.clear()
    writer.GLOBAL_BUFFER.clear()
    seed_all(config.machine.seed)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def run(config: HarmonizeTrainerConfig) -> Trainer:
    """Train to the end."""
    trainer = start(config)
    trainer.train()
    return trainer
