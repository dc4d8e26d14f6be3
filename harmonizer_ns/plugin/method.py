# SPDX-License-Identifier: Apache-2.0
"""The methods that ``ns-train`` lists. nerfstudio imports this for every ns command, so it only holds settings."""

from __future__ import annotations

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.plugins.types import MethodSpecification

from harmonizer_ns.plugin.models import HarmonizeNerfactoModelConfig, HarmonizeSplatfactoModelConfig
from harmonizer_ns.plugin.pipeline import HarmonizePipelineConfig
from harmonizer_ns.plugin.trainer import HarmonizeTrainerConfig


def _machine() -> MachineConfig:
    return MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu")


def _viewer() -> ViewerConfig:
    return ViewerConfig(num_rays_per_chunk=1 << 15, websocket_host="127.0.0.1")


def _adam(lr: float, lr_final: float | None = None, max_steps: int = 30000, warmup_steps: int = 0) -> dict:
    scheduler = None
    if lr_final is not None:
        scheduler = ExponentialDecaySchedulerConfig(
            lr_pre_warmup=0 if warmup_steps else 1e-8, lr_final=lr_final, warmup_steps=warmup_steps, max_steps=max_steps
        )
    return {"optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": scheduler}


def _splat_optimizers(max_steps: int = 30000) -> dict:
    """Splatfacto's own rates."""
    return {
        "means": _adam(1.6e-4, 1.6e-6, max_steps),
        "features_dc": _adam(0.0025),
        "features_rest": _adam(0.0025 / 20),
        "opacities": _adam(0.05),
        "scales": _adam(0.005),
        "quats": _adam(0.001),
        "camera_opt": _adam(1e-4, 5e-7, max_steps, warmup_steps=1000),
        "bilateral_grid": _adam(2e-3, 1e-4, max_steps, warmup_steps=1000),
    }


def _nerf_optimizers(lr: float = 1e-2) -> dict:
    """Nerfacto's own rates."""
    return {
        "proposal_networks": _adam(lr, 1e-4, 200000),
        "fields": _adam(lr, 1e-4, 200000),
        "camera_opt": _adam(1e-3, 1e-4, 5000),
    }


def _splat_data() -> FullImageDatamanagerConfig:
    parser = NerfstudioDataParserConfig(load_3D_points=True)
    return FullImageDatamanagerConfig(dataparser=parser, cache_images_type="uint8")


def _harmonize() -> HarmonizeTrainerConfig:
    return HarmonizeTrainerConfig(
        method_name="harmonize",
        machine=_machine(),
        steps_per_eval_image=500,
        steps_per_eval_batch=0,
        steps_per_save=2000,
        steps_per_eval_all_images=5000,
        max_num_iterations=30000,
        mixed_precision=False,
        pipeline=HarmonizePipelineConfig(datamanager=_splat_data(), model=HarmonizeSplatfactoModelConfig()),
        optimizers=_splat_optimizers(),
        viewer=_viewer(),
        vis="viewer+tensorboard",
    )


def _harmonize_tiny() -> HarmonizeTrainerConfig:
    steps, refine_every = 1500, 100
    config = _harmonize()
    config.method_name = "harmonize-tiny"
    config.vis = "tensorboard"
    config.max_num_iterations = steps
    config.steps_per_save = 250
    config.steps_per_eval_image = 500
    config.steps_per_eval_all_images = 0
    config.optimizers = _splat_optimizers(max_steps=steps)
    config.pipeline.max_image_width = 480
    config.pipeline.steps_per_fix = 250
    config.pipeline.fix_start = 250
    config.pipeline.model = HarmonizeSplatfactoModelConfig(
        warmup_length=200,
        refine_every=refine_every,
        stop_split_at=1000,
        num_downscales=1,
        resolution_schedule=500,
        sh_degree=2,
        sh_degree_interval=500,
        cull_alpha_thresh=0.02,
    )
    return config


def _harmonize_nerf() -> HarmonizeTrainerConfig:
    return HarmonizeTrainerConfig(
        method_name="harmonize-nerf",
        machine=_machine(),
        steps_per_eval_batch=500,
        steps_per_eval_image=500,
        steps_per_save=2000,
        steps_per_eval_all_images=5000,
        max_num_iterations=30000,
        mixed_precision=torch.cuda.is_available(),
        pipeline=HarmonizePipelineConfig(
            datamanager=VanillaDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True),
                train_num_rays_per_batch=4096,
                eval_num_rays_per_batch=4096,
            ),
            model=HarmonizeNerfactoModelConfig(
                eval_num_rays_per_chunk=1 << 15,
                average_init_density=0.01,
                use_appearance_embedding=False,
                camera_optimizer=CameraOptimizerConfig(mode="off"),
            ),
        ),
        optimizers=_nerf_optimizers(),
        viewer=_viewer(),
        vis="viewer+tensorboard",
    )


def _harmonize_nerf_tiny() -> HarmonizeTrainerConfig:
    config = _harmonize_nerf()
    config.method_name = "harmonize-nerf-tiny"
    config.vis = "tensorboard"
    config.max_num_iterations = 1500
    config.steps_per_save = 250
    config.steps_per_eval_batch = 0
    config.steps_per_eval_all_images = 0
    config.mixed_precision = False
    config.optimizers = _nerf_optimizers(lr=0.03)
    config.pipeline.max_image_width = 240
    config.pipeline.steps_per_fix = 250
    config.pipeline.fix_start = 500
    config.pipeline.num_targets = 4  # a NeRF takes seconds to render on a CPU
    config.pipeline.num_references = 2
    data = config.pipeline.datamanager
    assert isinstance(data, VanillaDataManagerConfig)
    data.train_num_rays_per_batch = data.eval_num_rays_per_batch = 512
    config.pipeline.model = HarmonizeNerfactoModelConfig(
        eval_num_rays_per_chunk=1 << 13,
        average_init_density=0.01,
        use_appearance_embedding=False,
        camera_optimizer=CameraOptimizerConfig(mode="off"),
        num_levels=8,
        max_res=512,
        log2_hashmap_size=15,
        hidden_dim=32,
        hidden_dim_color=32,
        num_proposal_iterations=1,
        num_proposal_samples_per_ray=(32,),
        num_nerf_samples_per_ray=16,
        proposal_net_args_list=[
            {"hidden_dim": 16, "log2_hashmap_size": 14, "num_levels": 4, "max_res": 64, "use_linear": False}
        ],
        implementation="torch",
    )
    return config


harmonize = MethodSpecification(
    config=_harmonize(),
    description="Splatfacto with progressive distillation from novel views repaired by a one-step enhancer.",
)
harmonize_tiny = MethodSpecification(
    config=_harmonize_tiny(), description="harmonize with settings for a CPU: 1,500 steps, a fix every 250."
)
harmonize_nerf = MethodSpecification(
    config=_harmonize_nerf(),
    description="Nerfacto with progressive distillation from novel views repaired by a one-step enhancer.",
)
harmonize_nerf_tiny = MethodSpecification(
    config=_harmonize_nerf_tiny(), description="harmonize-nerf with settings for a CPU."
)
