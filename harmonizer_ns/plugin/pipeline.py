# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's pipeline plus a pool of repaired views that it owns and trains on."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.cuda.amp.grad_scaler import GradScaler

from harmonizer_ns.distill.build import DistillSettings, build_distiller, photo_only_odds, round_steps
from harmonizer_ns.distill.distiller import Distiller
from harmonizer_ns.references import ReferenceSelector
from harmonizer_ns.enhancers.parking import ParkedEnhancer
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.errors import InputError
from harmonizer_ns.plugin import state as saved
from harmonizer_ns.plugin.checks import check_outputs, check_transforms
from harmonizer_ns.plugin.dataparser import without_open3d
from harmonizer_ns.plugin.enhancement import ViewEnhancement
from harmonizer_ns.plugin.models import EnhancedModel, give_cores_to_the_rasterizer
from harmonizer_ns.plugin.photos import TrainingPhotos
from harmonizer_ns.plugin.pseudo import Losses, pseudo_view_loss
from harmonizer_ns.plugin.renderer import ModelRenderer
from harmonizer_ns.plugin.report import log_round, round_progress
from harmonizer_ns.plugin.targets import choose_targets
from harmonizer_ns.plugin.viewer import HarmonizerViewerControl
from harmonizer_ns.types import Cameras

STATE_FORMAT = 1


@dataclass
class HarmonizePipelineConfig(DistillSettings, VanillaPipelineConfig):
    """nerfstudio's settings, and what is repaired, when, and how much of it is believed."""

    _target: type = field(default_factory=lambda: HarmonizePipeline)
    pseudo_loss_weight: float = 1.0
    """Trust in pseudo-views as a whole, in [0, 1]."""
    max_image_width: int | None = None
    """Photos wider than this are read smaller; None keeps their size."""


class HarmonizePipeline(VanillaPipeline):
    """Trains on photos and, with probability ``1 - real_odds``, on repaired views of its own model.

    The data manager is never touched: evaluation sees photos only. Everything that an exact resume needs is part of
    the pipeline's state.

    Raises:
        InputError: on a capture that cannot be used, naming what is wrong with it.
    """

    config: HarmonizePipelineConfig

    def __init__(
        self,
        config: HarmonizePipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: GradScaler | None = None,
    ) -> None:
        saved.allow_numpy_scalars()
        if torch.device(device).type == "cpu" and issubclass(config.model._target, SplatfactoModel):
            give_cores_to_the_rasterizer()
        self._prepare_data(config, check=test_mode == "val")
        super().__init__(config, device, test_mode, world_size, local_rank, grad_scaler)
        self.first_step = 0
        self._target_origin = "none"
        self._distiller: Distiller | None = None
        self._loaded: dict[str, Any] | None = None
        self._trainer: Trainer | None = None
        self._trainer_thread = 0
        self._is_video = test_mode != "val"
        if isinstance(self.model, EnhancedModel) and config.enhancer != "none":
            self.model.enhance_view = self._enhance_view
            self.viewer_control = HarmonizerViewerControl(self)

    @staticmethod
    def _prepare_data(config: HarmonizePipelineConfig, *, check: bool) -> None:
        """Check the capture before anything is built from it, and choose the photos' size."""
        data: Any = config.datamanager
        parser = data.dataparser
        parser.data = Path(data.data or parser.data)
        if isinstance(parser, NerfstudioDataParserConfig):
            without_open3d(parser)
        if not check and config.max_image_width is None:
            return
        if check and isinstance(parser, NerfstudioDataParserConfig):
            check_transforms(parser.data)
        outputs = parser.setup().get_dataparser_outputs(split="train")
        if check:
            is_splat = issubclass(config.model._target, SplatfactoModel)
            check_outputs(outputs, needs_points=is_splat and not getattr(config.model, "random_init", False))
        if config.max_image_width is not None:
            widest = int(outputs.cameras.width.max())
            # Half a pixel more: nerfstudio floors photo and camera sizes in different precision, which must agree.
            data.camera_res_scale_factor = min(1.0, (config.max_image_width + 0.5) / widest)

    # --- parts that are built when they are first needed --------------------------------------------------------------

    @cached_property
    def photos(self) -> TrainingPhotos:
        """The real training photos."""
        return TrainingPhotos(self.datamanager)

    @cached_property
    def enhancer(self) -> ParkedEnhancer:
        """The enhancer. Not a submodule: its weights are no part of the scene."""
        try:
            return ParkedEnhancer(load_enhancer(self.config.enhancer))
        except ValueError as error:
            raise InputError(str(error)) from error

    @cached_property
    def seed_points(self) -> Tensor | None:
        """Seed points in the model's frame, on the CPU, or None."""
        return self.datamanager.train_dataparser_outputs.metadata.get("points3D_xyz")  # type: ignore[attr-defined]

    @cached_property
    def references(self) -> ReferenceSelector:
        """Finds real photos for a view: for the enhancer, and for the gate even when the enhancer ignores them."""
        return ReferenceSelector(self.photos.rgb, self.photos.cameras, self.seed_points, self.config.num_references)

    @cached_property
    def _photo_centers(self) -> Float[Tensor, "n 3"]:
        return torch.cat([camera.centers for camera in self.photos.cameras]).cpu()

    @cached_property
    def enhancement(self) -> ViewEnhancement:
        """Makes ``rgb_enhanced``."""
        return ViewEnhancement(self.model, self.references, self.enhancer, self._while_nobody_trains, self._is_video)

    def _while_nobody_trains(self) -> AbstractContextManager:
        """Viewer threads read ``rgb_enhanced`` after nerfstudio has let go of the train lock; they take it again.

        The trainer's own thread evaluates with the lock in its hand, and the lock is not reentrant.
        """
        if self._trainer is None or threading.get_ident() == self._trainer_thread:
            return nullcontext()
        return self._trainer.train_lock

    def _enhance_view(self, camera: Any, outputs: dict[str, Any]) -> Tensor:
        return self.enhancement(camera, outputs)

    def _build_distiller(self, last_step: int) -> Distiller:
        config = self.config
        train = self.photos.cameras
        targets, self._target_origin = choose_targets(
            config.targets,
            config.camera_path,
            config.num_targets,
            config.extrapolation,
            train,
            self.seed_points,
            self.datamanager,
        )
        CONSOLE.log(f"Harmonize: {len(targets)} target views, {self._target_origin}")
        return build_distiller(
            config,
            train,
            targets,
            ModelRenderer(self.model),
            self.references,
            self.enhancer,
            round_steps(config, self.first_step, last_step),
            config.pseudo_loss_weight,
            photo_only_odds(config.real_odds),
        )

    # --- training -----------------------------------------------------------------------------------------------------

    def begin_at(self, step: int) -> None:
        """Called before a checkpoint is loaded; a checkpoint of our own then restores its run's own first step."""
        self.first_step = step

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """nerfstudio calls this after loading a checkpoint, which is when rounds can be planned and state restored."""
        trainer = training_callback_attributes.trainer
        assert trainer is not None
        self._trainer, self._trainer_thread = trainer, threading.get_ident()
        callbacks = super().get_training_callbacks(training_callback_attributes)
        if self.config.steps_per_fix > 0:
            self._distiller = self._build_distiller(self.first_step + trainer.config.max_num_iterations - 1)
        if self._loaded is not None and self._distiller is not None and self._loaded["distiller"] is not None:
            self._distiller.load_state_dict(self._loaded["distiller"])

        def before_iteration(step: int) -> None:
            self._restore_once()
            self._fix_if_due(trainer, step)

        return [*callbacks, TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], before_iteration)]

    def _restore_once(self) -> None:
        """Put back what setting up the run may have used up: random states and the data manager's position."""
        if self._loaded is None:
            return
        saved.set_datamanager_state(self.datamanager, self._loaded["datamanager"])
        saved.set_random_state(self._loaded["random"])
        self._loaded = None

    def _fix_if_due(self, trainer: Trainer, step: int) -> None:
        if self._distiller is not None and self._distiller.due(step):
            report = self._distiller.run(step, round_progress(step))
            self.enhancer.rest()
            log_round(report, trainer.base_dir / "harmonize")

    def get_train_loss_dict(self, step: int) -> Losses:
        """Losses on a real photo and, now and then, on a pseudo-view as well: photos never get fewer steps."""
        view = self._distiller.draw(step) if self._distiller is not None else None
        if view is None:
            return super().get_train_loss_dict(step)
        rays = self.datamanager.get_train_rays_per_batch()
        loss, psnr = pseudo_view_loss(self.model, view, rays, camera_index=self._nearest_photo(view.camera))
        outputs, losses, metrics = super().get_train_loss_dict(step)
        return outputs, {**losses, "pseudo_loss": loss}, {**metrics, "pseudo_psnr": psnr}

    def _nearest_photo(self, camera: Cameras) -> int:
        return int((self._photo_centers - camera.centers).norm(dim=-1).argmin())

    def get_average_eval_image_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As upstream; each photo is enhanced by itself, not as a frame of a video."""
        self._is_video = False
        return super().get_average_eval_image_metrics(*args, **kwargs)

    def summary(self) -> dict[str, Any]:
        """How the pseudo-views were made, for reports."""
        distiller = self._distiller
        return {
            "enhancer": self.config.enhancer,
            "targets": self._target_origin,
            "rounds": 0 if distiller is None else distiller.schedule.rounds,
            "pseudo_views": 0 if distiller is None else len(distiller.store),
        }

    # --- state --------------------------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """What an exact resume needs besides weights and optimizers: plain tensors, lists and numbers."""
        return {
            "format": STATE_FORMAT,
            "first_step": self.first_step,
            "targets": self._target_origin,
            "random": saved.random_state(),
            "datamanager": saved.datamanager_state(self.datamanager),
            "model": saved.model_state(self.model),
            "distiller": None if self._distiller is None else self._distiller.state_dict(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Keep the state until the run begins; see `get_training_callbacks`."""
        found = state.get("format")
        if found != STATE_FORMAT:
            raise InputError(f"this checkpoint's harmonize state has format {found}, this version reads {STATE_FORMAT}")
        self.first_step = state["first_step"]
        saved.set_model_state(self.model, state["model"])
        self._loaded = state

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint of this method or of the plain one.

        Raises:
            InputError: when the checkpoint holds another kind of model.
        """
        wanted, found = _kind(self.state_dict()), _kind(loaded_state)
        if found != wanted:
            raise InputError(f"the checkpoint holds a {found} model, this method continues a {wanted} model")
        wanted_names = {name for name in self.state_dict() if name.startswith("_model.")}
        super().load_pipeline({k: v for k, v in loaded_state.items() if _is_ours(k, wanted_names)}, step)


def _is_ours(name: str, model_names: set[str]) -> bool:
    """Upstream stores the metric networks (LPIPS) with the scene; they are left out."""
    return not name.startswith("_model.lpips.") or name in model_names


def _kind(state: dict[str, Any]) -> str:
    """Which kind of model a pipeline state holds."""
    names = {name.removeprefix("module.").removeprefix("_model.").removeprefix("module.") for name in state}
    if "gauss_params.means" in names or "means" in names:
        return "splatfacto"
    return "nerfacto" if any(name.startswith("proposal_networks.") for name in names) else "different"
