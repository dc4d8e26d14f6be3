# SPDX-License-Identifier: Apache-2.0
"""``gsplat-trainer default|mcmc|harmonize``, or ``python -m gsplat_trainer ...``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated

import torch
import tyro

from gsplat_trainer import checkpoint
from gsplat_trainer.config import Config, DefaultConfig, HarmonizeConfig, McmcConfig, check, scaled
from gsplat_trainer.distributed import World
from gsplat_trainer.outputs import CHECKPOINTS, FOLDERS
from gsplat_trainer.scene import prepare
from gsplat_trainer.trainer import Trainer
from gsplat_trainer.viewer import LiveViewer
from harmonizer_ns.devices import choose_device
from harmonizer_ns.distill.view_files import views_folder
from harmonizer_ns.errors import damage_of, errors_in_one_line
from harmonizer_ns.files import locked, remove_leftovers
from harmonizer_ns.raster.gsplat_kernels import prepare_rasterizer

Command = (
    Annotated[DefaultConfig, tyro.conf.subcommand("default")]
    | Annotated[McmcConfig, tyro.conf.subcommand("mcmc")]
    | Annotated[HarmonizeConfig, tyro.conf.subcommand("harmonize")]
)

DESCRIPTION = """Train Gaussian splats whose views get repaired on the way, or repair splats that exist already.

The flags are a subset of those of gsplat's simple_trainer.py. These defaults differ from gsplat's:
normalize_world_space False, save_ply True, disable_viewer True."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line says; bad input ends with one line and exit status 1."""
    with errors_in_one_line("gsplat-trainer"):
        launch(parse(arguments))


def parse(arguments: Sequence[str] | None) -> Config:
    """Read the command line; None: the program's own."""
    return tyro.cli(Command, args=arguments, prog="gsplat-trainer", description=DESCRIPTION)  # type: ignore[arg-type]


def launch(config: Config) -> None:
    """Run on one device, or, if that is asked for, on all GPUs through gsplat's distributed mode."""
    config = scaled(config)
    check(config)
    device = choose_device(config.device)
    if not config.all_gpus or device != "cuda" or torch.cuda.device_count() < 2:
        trainer = run(config, torch.device(device), World())
        if not (config.ckpt or trainer.is_finished):
            sys.exit(f"gsplat-trainer: {trainer.how_to_go_on}")
        return
    from gsplat.distributed import cli

    prepare_rasterizer(device)  # else every process would compile the same kernels
    cli(_worker, config)


def _worker(local_rank: int, world_rank: int, world_size: int, config: Config) -> None:
    trainer = run(config, torch.device("cuda", local_rank), World(world_rank, world_size))
    if not (config.ckpt or trainer.is_finished):
        trainer.outputs.say(trainer.how_to_go_on)


def run(config: Config, device: torch.device, world: World) -> Trainer:
    """Train, evaluate or harmonize as the settings say.

    Raises:
        InputError: on anything that the user gave and can mend.
    """
    prepare_rasterizer(device)
    config, scene, splats = prepare(config)
    with locked(config.result_dir, "--result_dir") if world.is_first else nullcontext():
        if world.is_first:
            folders = [config.result_dir / name for name in ("", *FOLDERS)]
            remove_leftovers(*folders, views_folder(config.result_dir / CHECKPOINTS))
        trainer = Trainer(config, scene, device, world, splats)
        if config.ckpt:
            trainer.outputs.write_config()
            trainer.evaluate(0)
        else:
            _train(trainer)
        if config.ckpt or trainer.is_finished:
            with trainer.whole_scene():
                trainer.outputs.write_videos(scene, trainer.repairs, max(trainer.step, 0))
            if config.final_report and world.is_first:
                trainer.outputs.write_report(trainer.scene, trainer.repairs, trainer.curves, trainer.seconds)
        trainer.outputs.close()
        if config.ckpt or trainer.is_finished:
            trainer.viewer.complete()
    return trainer


def _train(trainer: Trainer) -> None:
    """Train in front of a viewer, go on after a checkpoint, or leave repaired splats, as the settings say."""
    config = trainer.config
    if not config.disable_viewer:
        trainer.viewer = LiveViewer(config, trainer.scene, trainer.repairs, trainer.device, trainer.seeds)
    repairs_splats = isinstance(config, HarmonizeConfig)
    if config.resume is not None:
        path = checkpoint.newest_full(config.resume, trainer.world.rank)
        with damage_of(path):
            trainer.load_state_dict(checkpoint.load_full(path), views_folder(path.parent))
    elif repairs_splats and trainer.scene.test:
        trainer.evaluate(0, stage="before")
    trainer.train()
    if repairs_splats and trainer.is_finished:
        trainer.export(config.result_dir / "harmonized.ply")


if __name__ == "__main__":
    main()
