# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's pipeline trains on repairs as well: this is where the plugin holds them."""

from __future__ import annotations

import math
import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.cuda.amp.grad_scaler import GradScaler

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.captures.transforms import check_transforms
from harmonizer_ns.distill.curves import Curves
from harmonizer_ns.distill.held_out import SUFFIXES, HeldOutPhotos
from harmonizer_ns.distill.repairs import Repairs
from harmonizer_ns.distill.rounds import progress_bar
from harmonizer_ns.distill.run_report import mark_quality, mark_round
from harmonizer_ns.distill.settings import DistillSettings
from harmonizer_ns.enhancers.stream import HISTORY, EnhancerStream
from harmonizer_ns.errors import InputError, check_limits
from harmonizer_ns.plugin import state as saved
from harmonizer_ns.plugin.cameras import from_nerfstudio, is_pinhole
from harmonizer_ns.plugin.dataparser import PlyNerfstudio, check_count, check_outputs
from harmonizer_ns.plugin.models import EnhancedModel, HarmonizeSplatfactoModelConfig, begin_at
from harmonizer_ns.plugin.photos import TrainingPhotos, as_capture
from harmonizer_ns.plugin.pseudo import Losses, pseudo_view_loss
from harmonizer_ns.plugin.renderer import ModelRenderer, frames_from_outputs
from harmonizer_ns.plugin.report import log_round, say
from harmonizer_ns.plugin.viewer import HarmonizerViewerControl
from harmonizer_ns.random_state import random_state, set_random_state
from harmonizer_ns.raster.gsplat_kernels import prepare_rasterizer
from harmonizer_ns.splats.seeding import choose_seeds
from harmonizer_ns.stereo.geometry import Geometry, photo_geometry
from harmonizer_ns.stereo.settings import GeometrySettings
from harmonizer_ns.stereo.teacher import teacher_of
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.viewing.guard import guard_viser
from harmonizer_ns.views import PLAIN, JudgedView

STATE_FORMAT = 1


@dataclass
class HarmonizePipelineConfig(GeometrySettings, DistillSettings, VanillaPipelineConfig):
    """nerfstudio's settings, what is made of the photos' geometry, what is repaired, and how much of it is believed."""

    _target: type = field(default_factory=lambda: HarmonizePipeline)
    max_image_width: int | None = None
    """Photos wider than this are read smaller; None keeps their size."""


class HarmonizePipeline(VanillaPipeline):
    """Every step learns from a photo, and some steps from a repaired view of the model as well (`Repairs`).

    The data manager is never touched: evaluation sees photos only. Everything that an exact resume needs is part of
    the pipeline's state.

    Raises:
        InputError: on a capture that cannot be used, naming what is wrong with it, and on a GPU without kernels for
            splats.
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
        guard_viser()  # nerfstudio starts its viewer once it has a pipeline
        if test_mode == "val":  # a run that is only looked at opens without its enhancer
            config.check()
            config.check_geometry()
            if isinstance(config.model, HarmonizeSplatfactoModelConfig):
                check_limits(config.model, opacity_reg=(0, math.inf))
        if issubclass(config.model._target, SplatfactoModel):
            prepare_rasterizer(device)
        self._prepare_data(config, check=test_mode == "val")
        super().__init__(config, device, test_mode, world_size, local_rank, grad_scaler)
        self.first_step = 0
        self.photos = TrainingPhotos(self.datamanager)
        renderer = ModelRenderer(self.model)
        self.repairs = Repairs(config, self.photos, renderer, lambda message: CONSOLE.log(f"Harmonize: {message}"))
        self.losses: list[Tensor] = []
        self.curves, self.held_out = Curves(1), HeldOutPhotos()
        self._loaded: dict[str, Any] | None = None
        self.views = Path()  # folder of the loaded state's pseudo-views
        self._trainer: Trainer | None = None
        self._trainer_thread = 0
        self._is_video = test_mode != "val"
        self._geometry: Geometry | None = None
        if isinstance(self.model, EnhancedModel) and config.enhancer != "none":
            self.model.enhance_view = self._enhance_view
            self.viewer_control = HarmonizerViewerControl(self)

    @staticmethod
    def _prepare_data(config: HarmonizePipelineConfig, *, check: bool) -> None:
        """Check the capture before anything is built from it, and choose the photos' size."""
        data: Any = config.datamanager
        parser = data.dataparser
        parser.data = Path(data.data or parser.data)
        if parser._target is Nerfstudio:
            parser._target = PlyNerfstudio
        if not check and config.max_image_width is None:
            return
        if check and isinstance(parser, NerfstudioDataParserConfig):
            check_transforms(parser.data)
        outputs = parser.setup().get_dataparser_outputs(split="train")
        if check:
            begins_at_points = issubclass(config.model._target, SplatfactoModel) and not config.model.random_init  # type: ignore[attr-defined]
            check_outputs(outputs, needs_points=begins_at_points and config.seeds == "capture")
        if config.max_image_width is not None:
            widest = int(outputs.cameras.width.max())
            # Half a pixel more: nerfstudio floors photo and camera sizes in different precision, which must agree.
            data.camera_res_scale_factor = min(1.0, (config.max_image_width + 0.5) / widest)

    def seed(self, folder: Path) -> None:
        """Let a new splat begin where the settings say; with the capture's own points upstream begins by itself.

        Args:
            folder: of the run; what the photos give is kept here.

        Raises:
            InputError: when there are too few points.
        """
        config, model = self.config, self.model
        if config.seeds == "capture" or not isinstance(model, SplatfactoModel) or model.config.random_init:
            return
        capture = as_capture("this capture", self.photos)
        seeds = choose_seeds(capture, self._look(capture, folder).seeds, config.seeds, say)
        check_count(len(seeds))
        begin_at(model, seeds)

    def _teach_depth(self, folder: Path, last_step: int) -> None:
        """Let the photos' depth teach the model's, where the settings say so."""
        config, model = self.config, self.model
        if config.depth_weight == 0 or not isinstance(model, EnhancedModel):
            return
        geometry = self._look(as_capture("this capture", self.photos), folder)
        model.teacher = teacher_of(geometry, config.depth_weight, last_step + 1)
        if isinstance(model, SplatfactoModel):
            model.config.output_depth_during_training |= model.teacher is not None

    def _look(self, capture: Capture, folder: Path) -> Geometry:
        """What the photos give; they are looked at once."""
        if self._geometry is None:
            where = self.config.geometry_dir or folder
            self._geometry = photo_geometry(capture, where, self.config.stereo, self.device, say)
        return self._geometry

    # --- the second image of every render -----------------------------------------------------------------------------

    @torch.no_grad()
    def _enhance_view(self, camera: NerfstudioCameras, outputs: dict[str, Any]) -> Float[Tensor, "h w 3"]:
        """``rgb_enhanced`` of a render. Photos cannot be warped into distorted views, which are repaired without."""
        frames = frames_from_outputs(self.model, outputs, from_nerfstudio(camera))
        photos = self.photos_for(frames.cameras) if is_pinhole(camera) else None
        return self._stream.enhance(frames, photos).rgb[0].permute(1, 2, 0)

    @cached_property
    def _stream(self) -> EnhancerStream:
        return self.repairs.stream(HISTORY if self._is_video else 0)

    def photos_for(self, view: Cameras) -> Frames | None:
        """The nearest photos with the model's depth, for a pinhole view; rendered while no other thread trains."""
        with self._between_steps():
            return self.repairs.photos(view)

    def _between_steps(self) -> AbstractContextManager:
        """Viewer threads read ``rgb_enhanced`` after nerfstudio has let go of the train lock; they take it again.

        The trainer's own thread evaluates with the lock in its hand, and the lock is not reentrant.
        """
        if self._trainer is None or threading.get_ident() == self._trainer_thread:
            return nullcontext()
        return self._trainer.train_lock

    # --- training -----------------------------------------------------------------------------------------------------

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """nerfstudio calls this after loading a checkpoint, which is when rounds can be planned and state restored."""
        trainer = training_callback_attributes.trainer
        assert trainer is not None
        self._trainer, self._trainer_thread = trainer, threading.get_ident()
        callbacks = super().get_training_callbacks(training_callback_attributes)
        last_step = self.first_step + trainer.config.max_num_iterations - 1
        self.repairs.plan(self.first_step, last_step, self.photos.held_out)
        self._teach_depth(trainer.base_dir, last_step)
        self.curves = Curves(trainer.config.max_num_iterations)
        if self._loaded is not None:
            self.repairs.load_state_dict(self._loaded["distiller"], self.views)
            if "curves" in self._loaded:  # earlier versions kept none
                self.curves.load_state_dict(self._loaded["curves"])

        def before_iteration(step: int) -> None:
            self._restore_once()
            if self.repairs.due(step):
                bar = progress_bar(step, CONSOLE)
                watched = trainer.interruption.watched  # type: ignore[attr-defined] - ours has it
                report = self.repairs.run(step, lambda cameras: watched(bar(cameras)))
                log_round(report, trainer.base_dir / "harmonize")
                if report.failure is None:
                    mark_round(self.curves, report)

        return [*callbacks, TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], before_iteration)]

    def _restore_once(self) -> None:
        """Put back what setting up the run may have used up: random states and the data manager's position."""
        if self._loaded is None:
            return
        saved.set_datamanager_state(self.datamanager, self._loaded["datamanager"])
        set_random_state(self._loaded["random"])
        self._loaded = None

    def get_train_loss_dict(self, step: int) -> Losses:
        """Losses on a real photo and, now and then, on a pseudo-view as well: photos never get fewer steps."""
        view = self.repairs.draw(step, self.device)
        extra_losses, extra_metrics = {}, {}
        if view is not None:
            rays = self.datamanager.get_train_rays_per_batch()
            loss, psnr = pseudo_view_loss(self.model, view, rays, camera_index=self._nearest_photo(view.camera))
            extra_losses, extra_metrics = {"pseudo_loss": loss}, {"pseudo_psnr": psnr}
        outputs, losses, metrics = super().get_train_loss_dict(step)
        losses, metrics = {**losses, **extra_losses}, {**metrics, **extra_metrics}
        self.losses = [value.detach() for value in losses.values()]
        return outputs, losses, metrics

    def _nearest_photo(self, camera: Cameras) -> int:
        return int((self._photo_centers - camera.centers).norm(dim=-1).argmin())

    @cached_property
    def _photo_centers(self) -> Float[Tensor, "n 3"]:
        return torch.cat([camera.centers for camera in self.photos.cameras]).cpu()

    def get_average_eval_image_metrics(self, step: int | None = None, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Measure as upstream does; each photo is enhanced by itself, not as a frame of a video."""
        self._is_video = False
        metrics = super().get_average_eval_image_metrics(step, *args, **kwargs)
        if step is not None:
            mark_quality(self.curves, step, metrics)
        return metrics

    def get_average_image_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Average as upstream does, and keep ``held_out`` photos one by one.

        A metric that could not be measured on every image has no average.
        """
        self.held_out, model = HeldOutPhotos(), self.model
        assert isinstance(model, EnhancedModel)
        model.watch = self._keep
        try:
            return _measured(super().get_average_image_metrics(*args, **kwargs))
        finally:
            model.watch = None

    def _keep(self, batch: dict[str, Any], metrics: dict[str, float], images: dict[str, Tensor]) -> None:
        """Keep one photo; upstream puts it to the left of what was measured."""
        shown = {role: images[f"img{suffix}"] for suffix, role in SUFFIXES.items() if f"img{suffix}" in images}
        halves = {role: image.permute(2, 0, 1).chunk(2, dim=2) for role, image in shown.items()}
        assert self.datamanager.eval_dataset is not None
        file = self.datamanager.eval_dataset.image_filenames[int(batch["image_idx"])]
        name = "/".join(file.parts[-2:])  # photos of a rig are told apart by their folders
        pictures = {role: image for role, (_, image) in halves.items()}
        self.held_out.add(JudgedView(str(batch["image_idx"]), name, pictures, halves[PLAIN][0]), metrics)

    def get_eval_image_metrics_and_images(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Measure one image as upstream does; what could not be measured is left out."""
        metrics, images = super().get_eval_image_metrics_and_images(step)
        return _measured(metrics), images

    # --- state --------------------------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """What an exact resume needs besides weights and optimizers: plain tensors, lists and numbers."""
        return {
            "format": STATE_FORMAT,
            "first_step": self.first_step,
            "targets": self.repairs.summary()["targets"],
            "random": random_state(),
            "datamanager": saved.datamanager_state(self.datamanager),
            "model": saved.model_state(self.model),
            "distiller": self.repairs.state_dict(),
            "curves": self.curves.state_dict(),
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
        ours = self.state_dict()
        wanted, found = _kind(ours), _kind(loaded_state)
        if found != wanted:
            raise InputError(f"the checkpoint holds a {found} model, this method continues a {wanted} model")
        # Upstream stores the metric networks (LPIPS) with the scene; they are left out.
        kept = {name: v for name, v in loaded_state.items() if name in ours or not name.startswith("_model.lpips.")}
        super().load_pipeline(kept, step)
        saved.anneal(self.model, step)


def _measured(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def _kind(state: dict[str, Any]) -> str:
    """Which kind of model a pipeline state holds."""
    names = {name.removeprefix("module.").removeprefix("_model.").removeprefix("module.") for name in state}
    if "gauss_params.means" in names or "means" in names:
        return "splatfacto"
    return "nerfacto" if any(name.startswith("proposal_networks.") for name in names) else "different"
