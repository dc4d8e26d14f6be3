# SPDX-License-Identifier: Apache-2.0
"""Settings that earlier versions have written, and flags that they knew."""

from pathlib import Path

import pytest
import tyro
import yaml

from gsplat_trainer.__main__ import Command
from harmonizer_ns.distill.gate import GateConfig
from harmonizer_ns.distill.settings import DistillSettings
from harmonizer_ns.plugin.method import harmonize, harmonize_nerf

SAVED = """
!!python/object:harmonizer_ns.plugin.trainer.HarmonizeTrainerConfig
_target: !!python/name:harmonizer_ns.plugin.trainer.HarmonizeTrainer ''
compare_to_baseline: false
final_report: true
pipeline: !!python/object:harmonizer_ns.plugin.pipeline.HarmonizePipelineConfig
  _target: !!python/name:harmonizer_ns.plugin.pipeline.HarmonizePipeline ''
  camera_path: !!python/object/apply:pathlib.PosixPath
  - path.json
  enhancer: difix-ref
  extrapolation: 0.3
  fix_start: 11
  gate: !!python/object:harmonizer_ns.distill.gate.GateConfig
    alpha_high: 0.7
    alpha_low: 0.1
    depth_tolerance: 0.2
    photo_noise: 0.02
    photo_tolerance: 0.04
    shift: 2
    unseen_weight: 0.3
    window: 7
  max_image_width: 480
  model: !!python/object:harmonizer_ns.plugin.models.HarmonizeSplatfactoModelConfig
    _target: !!python/name:harmonizer_ns.plugin.models.HarmonizeSplatfactoModel ''
    sh_degree: 2
  num_references: 2
  num_targets: 5
  pseudo_loss_weight: 0.9
  real_odds: 0.6
  step_fraction: 0.4
  steps_per_fix: 10
  store_capacity: 300
  targets: path
"""
"""What commit 33d9496 wrote into config.yml, nerfstudio's own parts left out."""


def test_a_saved_config_keeps_its_values():
    pipeline = yaml.load(SAVED, Loader=yaml.Loader).pipeline
    gate = GateConfig(0.1, 0.7, 0.02, 0.04, 7, 2, 0.3, 0.2)
    assert (pipeline.photo_share, pipeline.pseudo_loss_weight, pipeline.gate) == (0.6, 0.9, gate)
    assert not hasattr(pipeline, "real_odds")
    assert (pipeline.enhancer, pipeline.targets, pipeline.camera_path) == ("difix-ref", "path", Path("path.json"))
    assert (pipeline.fix_start, pipeline.steps_per_fix, pipeline.fix_steps) == (11, 10, None)
    assert (pipeline.num_targets, pipeline.extrapolation, pipeline.step_fraction) == (5, 0.3, 0.4)
    assert (pipeline.num_references, pipeline.store_capacity, pipeline.max_image_width) == (2, 300, 480)
    assert pipeline.pseudo_probability(errors_repeat=False) == 1 / 0.6 - 1
    assert yaml.load(yaml.dump(pipeline), Loader=yaml.Loader).photo_share == 0.6


@pytest.mark.parametrize(("fade", "trust"), [(True, "fading"), (False, "lasting")])
def test_a_fade_that_was_saved_becomes_trust(fade, trust):
    settings = DistillSettings.__new__(DistillSettings)
    settings.__setstate__({"fade": fade})
    assert settings.trust == trust
    assert "fade" not in vars(settings)


def test_earlier_flags_are_understood():
    methods = tyro.extras.subcommand_type_from_defaults(
        {"harmonize": harmonize.config, "harmonize-nerf": harmonize_nerf.config}
    )
    config = tyro.cli(methods, args=["harmonize", "--pipeline.real-odds", "0.7"])
    assert config.pipeline.photo_share == 0.7
    config = tyro.cli(Command, args=["default", "--real_odds", "0.8", "--novel_data_lambda", "0.3"])
    assert (config.photo_share, config.pseudo_loss_weight) == (0.8, 0.3)
