# SPDX-License-Identifier: Apache-2.0
"""The methods that ``ns-train`` lists. nerfstudio imports this for every ns command, so it only holds settings."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.configs.base_config import LocalWriterConfig, LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.plugins.types import MethodSpecification

from harmonizer_ns.plugin.models import HarmonizeNerfactoModelConfig, HarmonizeSplatfactoModelConfig
from harmonizer_ns.plugin.pipeline import HarmonizePipelineConfig
from harmonizer_ns.plugin.terminal import StepLines
from harmonizer_ns.plugin.trainer import HarmonizeTrainerConfig


def _adam(lr: float, lr_final: float | None = None, max_steps: int = 30000, warmup_steps: int = 0) -> dict[str, Any]:
    scheduler = None
    if lr_final is not None:
        scheduler = ExponentialDecaySchedulerConfig(
            lr_pre_warmup=0 if warmup_steps else 1e-8, lr_final=lr_final, warmup_steps=warmup_steps, max_steps=max_steps
        )
    return {"optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": scheduler}


def _splat_optimizers(max_steps: int = 30000) -> dict[str, Any]:
    """Learning rates that are splatfacto's own."""
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


def _nerf_optimizers(lr: float = 1e-2) -> dict[str, Any]:
    """Learning rates that are nerfacto's own."""
    return {
        "proposal_networks": _adam(lr, 1e-4, 200000),
        "fields": _adam(lr, 1e-4, 200000),
        "camera_opt": _adam(1e-3, 1e-4, 5000),
    }


def _run(
    name: str, pipeline: HarmonizePipelineConfig, optimizers: dict[str, Any], **changes: Any
) -> HarmonizeTrainerConfig:
    """A run as long as nerfstudio's own, shown in its viewer; keywords change its other settings."""
    settings = {
        "steps_per_eval_batch": 0,
        "steps_per_eval_image": 500,
        "steps_per_eval_all_images": 5000,
        "steps_per_save": 2000,
        "max_num_iterations": 30000,
        "mixed_precision": False,
        "vis": "viewer+tensorboard",
    }
    return HarmonizeTrainerConfig(
        method_name=name,
        machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
        pipeline=pipeline,
        optimizers=optimizers,
        logging=LoggingConfig(local_writer=LocalWriterConfig(_target=StepLines, enable=True), profiler="none"),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15, websocket_host="127.0.0.1"),
        **{**settings, **changes},
    )


_TINY = {"max_num_iterations": 1500, "steps_per_save": 250, "steps_per_eval_all_images": 0, "vis": "tensorboard"}
"""A run on a CPU."""


def _splat_pipeline(model: HarmonizeSplatfactoModelConfig, **changes: Any) -> HarmonizePipelineConfig:
    parser = NerfstudioDataParserConfig(load_3D_points=True)
    data = FullImageDatamanagerConfig(dataparser=parser, cache_images_type="uint8")
    return HarmonizePipelineConfig(datamanager=data, model=model, **changes)


_NERF_DEPTH = 0.1
"""A NeRF has no seed points to begin at, and gains much by depth."""


def _nerf_pipeline(rays: int, model: dict[str, Any], **changes: Any) -> HarmonizePipelineConfig:
    """Nerfacto without what belongs to single photos, since pseudo-views are no photos, taught by the photos' depth."""
    data = VanillaDataManagerConfig(
        dataparser=NerfstudioDataParserConfig(load_3D_points=True),
        train_num_rays_per_batch=rays,
        eval_num_rays_per_batch=rays,
    )
    field = HarmonizeNerfactoModelConfig(
        average_init_density=0.01,
        use_appearance_embedding=False,
        camera_optimizer=CameraOptimizerConfig(mode="off"),
        **model,
    )
    return HarmonizePipelineConfig(datamanager=data, model=field, depth_weight=_NERF_DEPTH, **changes)


_TINY_SPLAT = HarmonizeSplatfactoModelConfig(
    warmup_length=200,
    refine_every=100,
    stop_split_at=1000,
    num_downscales=1,
    resolution_schedule=500,
    sh_degree=2,
    sh_degree_interval=500,
    cull_alpha_thresh=0.02,
)
_TINY_NERF = {
    "eval_num_rays_per_chunk": 1 << 13,
    "num_levels": 8,
    "max_res": 512,
    "log2_hashmap_size": 15,
    "hidden_dim": 32,
    "hidden_dim_color": 32,
    "num_proposal_iterations": 1,
    "num_proposal_samples_per_ray": (32,),
    "num_nerf_samples_per_ray": 16,
    "proposal_net_args_list": [
        {"hidden_dim": 16, "log2_hashmap_size": 14, "num_levels": 4, "max_res": 64, "use_linear": False}
    ],
    "implementation": "torch",
}

harmonize = MethodSpecification(
    config=_run("harmonize", _splat_pipeline(HarmonizeSplatfactoModelConfig()), _splat_optimizers()),
    description="Splatfacto with progressive distillation from novel views repaired by a one-step enhancer.",
)
harmonize_tiny = MethodSpecification(
    config=_run(
        "harmonize-tiny",
        _splat_pipeline(_TINY_SPLAT, max_image_width=480, steps_per_fix=250, fix_start=250),
        _splat_optimizers(max_steps=1500),
        **_TINY,
    ),
    description="harmonize with settings for a CPU: 1,500 steps, repairs every 250.",
)
harmonize_nerf = MethodSpecification(
    config=_run(
        "harmonize-nerf",
        _nerf_pipeline(4096, {"eval_num_rays_per_chunk": 1 << 15}),
        _nerf_optimizers(),
        steps_per_eval_batch=500,
        mixed_precision=torch.cuda.is_available(),
    ),
    description="Nerfacto with progressive distillation from novel views repaired by a one-step enhancer.",
)
harmonize_nerf_tiny = MethodSpecification(
    config=_run(
        "harmonize-nerf-tiny",
        # Few views and photos: a NeRF takes seconds to render on a CPU.
        _nerf_pipeline(
            512, _TINY_NERF, max_image_width=240, steps_per_fix=250, fix_start=500, num_targets=4, num_references=2
        ),
        _nerf_optimizers(lr=0.03),
        **_TINY,
    ),
    description="harmonize-nerf with settings for a CPU.",
)
