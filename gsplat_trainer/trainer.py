# SPDX-License-Identifier: Apache-2.0
"""The training loop stands here: every step learns from photos, some steps from a pseudo-view too.

Kerbl et al. 2023 with gsplat's rates and density control, plus progressive distillation from `harmonizer_ns.distill`.
Density control listens to photos only: repairs may be wrong about detail, and it would grow Gaussians for that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gsplat.strategy import MCMCStrategy
from torch import Tensor

from gsplat_trainer import checkpoint
from gsplat_trainer.config import Config
from gsplat_trainer.distributed import World, run_round
from gsplat_trainer.objective import Objective, make_extras
from gsplat_trainer.optimizers import (
    VisibleAdam,
    make_optimizers,
    optimizer_state,
    set_means_rate,
    set_optimizer_state,
)
from gsplat_trainer.outputs import Outputs
from gsplat_trainer.photos import PhotosAhead
from gsplat_trainer.scene import find_geometry, first_splats, make_repairs
from gsplat_trainer.viewer import NoViewer
from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.captures.frame import write_origin
from harmonizer_ns.devices import on_device
from harmonizer_ns.distill.curves import Curves
from harmonizer_ns.distill.rounds import Progress
from harmonizer_ns.distill.run_report import mark_quality, mark_round
from harmonizer_ns.distill.view_files import views_beside
from harmonizer_ns.errors import InputError
from harmonizer_ns.finite import SkippedSteps, all_finite, check_finite
from harmonizer_ns.interruption import Interruption, InterruptionError
from harmonizer_ns.poses import FARTHEST
from harmonizer_ns.random_state import random_state, set_random_state
from harmonizer_ns.raster.gsplat_versions import mend_resets, shown
from harmonizer_ns.raster.strategies import use_cpu_ops
from harmonizer_ns.splats.files import SUFFIXES, write_splats
from harmonizer_ns.splats.model import NAMES, Splats, base_colors, check_splats, degree_of, parameters
from harmonizer_ns.splats.rendering import Rasterized, RasterOptions, SplatRenderer
from harmonizer_ns.stereo.teacher import teacher_of
from harmonizer_ns.types import Cameras, Frames


class Trainer:
    """Is one run; as a `Renderer` it shows the splats as they are now.

    Args:
        config: settings, steps scaled.
        scene: what to learn.
        device: where to learn it.
        world: which process this is.
        splats: begin with these, at their full degree of colour, instead of seed points.

    Raises:
        InputError: on a scene or settings that cannot be trained.
    """

    def __init__(
        self,
        config: Config,
        scene: Capture,
        device: torch.device,
        world: World = World(),
        splats: Splats | None = None,
    ) -> None:
        self.config, self.scene, self.device, self.world = config, scene, device, world
        self.viewer = NoViewer()
        torch.manual_seed(config.seed + world.rank)
        mend_resets()
        if device.type == "cpu":
            use_cpu_ops()
        self._check_batch()
        self.step, self.first_step = -1, 0
        self.full_degree_from_start = splats is not None
        self.outputs = Outputs(config, enabled=world.is_first)
        say = self.outputs.say
        geometry = find_geometry(config, scene, device, world, say, for_seeds=splats is None)
        found = None if geometry is None else geometry.seeds
        first = first_splats(config, scene, found, say) if splats is None else splats
        self.seeds = (first["means"].cpu(), base_colors(first).cpu()) if splats is None else None
        self._set_splats({name: value[world.rank :: world.size] for name, value in first.items()})
        self.strategy: Any = config.strategy
        self.strategy_state = self._initial_strategy_state()
        self.extras = make_extras(config, len(scene.train), device)
        self._options = _raster_options(config, distributed=world.size > 1)
        teacher = teacher_of(geometry, config.depth_weight, config.max_steps)
        self._photos = PhotosAhead(scene, device)
        self.objective = Objective(config, scene, self._options, self.extras, device, teacher, self._photos)
        self._gathered: Splats | None = None
        self.repairs = make_repairs(config, scene, self, world, say)
        self.skipped = SkippedSteps()
        self.interruption = Interruption()
        self._taken = self._saved = -1  # steps
        self._order: list[int] = []
        self._shuffle = torch.Generator().manual_seed(config.seed + world.rank)
        self._random: dict[str, Any] | None = None
        self._bar = self.outputs.bar(0)
        self.curves = Curves(config.max_steps)
        self.seconds = 0.0  # of training, in this process

    def _check_batch(self) -> None:
        sizes = {(camera.width, camera.height) for camera in self.scene.train_cameras}
        if self.config.batch_size > 1 and len(sizes) > 1:
            raise InputError(f"batch_size {self.config.batch_size} needs photos of one size, found {sorted(sizes)}")

    def _set_splats(self, values: Splats) -> None:
        self.splats: Any = parameters(values, self.device)
        self.optimizers = make_optimizers(self.splats, self.config, self.scene.extent, self.world.size)
        self._means_rate = self.optimizers["means"].param_groups[0]["lr"]

    def _initial_strategy_state(self) -> dict[str, Any]:
        if isinstance(self.strategy, MCMCStrategy):
            return self.strategy.initialize_state()
        return self.strategy.initialize_state(scene_scale=self.scene.extent * self.config.global_scale)

    @property
    def degree(self) -> int:
        """Degree of colour in use at this step."""
        most = degree_of(self.splats)
        return most if self.full_degree_from_start else min(max(self.step, 0) // self.config.sh_degree_interval, most)

    def render(self, cameras: Cameras) -> Frames:
        """Draw colour, opacity and depth of every camera; of all ranks' Gaussians inside `whole_scene`."""
        return SplatRenderer(self._gathered or self.splats, self.degree, self._options).render(cameras)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train up to ``max_steps``, with evaluation and checkpoints on the way, or until interrupted."""
        self.outputs.write_config()
        write_origin(self.outputs.folder, self.scene.origin)
        first = self.scene.cameras[0]
        self.outputs.say(f"{len(self.scene.train)} photos to learn from, {first.width}x{first.height} pixels")
        if self._random is not None:
            set_random_state(self._random)
        if self.is_finished:
            self.outputs.say(f"This run is finished: all its {self.config.max_steps} steps were taken")
            self.evaluate(self.step)
        start = time.perf_counter()
        self._bar = self.outputs.bar(self.first_step)
        with self.interruption, self._bar:
            try:
                for step in range(self.first_step, self.config.max_steps):
                    self._take(step, start)
            except InterruptionError:
                self.step = self._taken
                if self._saved < self.step:
                    self.save(self.step, self.seconds)

    def _take(self, step: int, start: float) -> None:
        """Train a step, which may begin with a round of repairs and end with an evaluation.

        Raises:
            InterruptionError: before the step, or in its round, when the user has asked for it.
        """
        if self.world.any(self.interruption.asked):
            raise InterruptionError
        self.step = step
        self._repair_if_due(step)
        with self.viewer.training():
            losses = self.learn(step)
        self._taken, self.seconds = step, time.perf_counter() - start
        if not self.skipped.in_a_row:
            terms = {f"loss/{name}": value for name, value in losses.items()}
            self.curves.add(step, {**terms, "splats/": len(self.splats["means"])})
        self._report(step, losses)

    @property
    def is_finished(self) -> bool:
        """Whether all steps have been taken."""
        return self.step + 1 >= self.config.max_steps

    @property
    def how_to_go_on(self) -> str:
        """What to say when a run was interrupted."""
        return f"interrupted after {self._taken + 1} steps; {self.outputs.last_checkpoint()}"

    def _repair_if_due(self, step: int) -> None:
        if self.repairs.due(step):
            with self.whole_scene():
                report = run_round(self.world, self.repairs, step, self._progress(step))
            if report is not None:
                self.outputs.log_round(report)
                if report.failure is None:
                    mark_round(self.curves, report)

    def _progress(self, step: int) -> Progress:
        """A bar that ends when the user asks for it; several ranks finish their round together."""

        def counted(cameras: Sequence[Cameras]) -> Iterable[Cameras]:
            return self._bar.over(cameras, f"views repaired at step {step}")

        return counted if self.world.size > 1 else lambda cameras: self.interruption.watched(counted(cameras))

    @contextmanager
    def whole_scene(self) -> Iterator[Splats]:
        """Within this context the first rank holds and renders the Gaussians of all ranks. All ranks must enter it."""
        self._gathered = self.world.gather(self.splats) if self.world.size > 1 else None
        try:
            yield self._gathered or self.splats
        finally:
            self._gathered = None

    def learn(self, step: int) -> dict[str, Tensor]:
        """Take one step of optimisation; returns its losses."""
        losses: dict[str, Tensor] = {}
        drawn: list[Rasterized] = []
        if self.scene.train:
            photo, losses = self.objective.photos(self.splats, self.degree, self._next_photos(), step)
            self._photos.expect(self.scene.train[i] for i in self._upcoming())  # while this step runs
            drawn.append(photo)
            self.strategy.step_pre_backward(self.splats, self.optimizers, self.strategy_state, step, photo.info)
        view = self.repairs.draw(step, self.device)
        if view is not None:
            pseudo, loss = self.objective.pseudo_view(self.splats, self.degree, view)
            drawn.append(pseudo)
            losses |= loss
        if not drawn:
            return {}
        losses |= self.objective.regularization(self.splats)
        torch.stack(list(losses.values())).sum().backward()
        self.world.average(gradient for extra in self.extras.values() for gradient in extra.gradients)
        if not self._may_step(step, losses):
            self._drop_gradients()
            return losses
        self._update(step, drawn)
        if self.scene.train:
            self._control_density(step, drawn[0].info)
        return losses

    def _may_step(self, step: int, losses: dict[str, Tensor]) -> bool:
        """Whether loss and gradients are finite, on all ranks; what is not changes nothing.

        Raises:
            InputError: after too many steps in a row that are not.
        """
        groups = [group for optimizer in self._all_optimizers.values() for group in optimizer.param_groups]
        gradients = [value.grad for group in groups for value in group["params"] if value.grad is not None]
        taken = not self.world.any(not all_finite([*losses.values(), *gradients]))
        self.skipped.add(taken)
        if not taken:
            self.outputs.say(self.skipped.told(step))
            self.skipped.check(step, self.outputs.last_checkpoint())
        return taken

    def _next_photos(self) -> list[int]:
        """Draw positions in the list of training photos: every photo once, in random order, then again."""
        chosen = self._upcoming()
        del self._order[-len(chosen) :]
        return chosen

    def _upcoming(self) -> list[int]:
        """The positions of the next step, which stay to be drawn."""
        while len(self._order) < self.config.batch_size:
            self._order = torch.randperm(len(self.scene.train), generator=self._shuffle).tolist() + self._order
        return self._order[: -self.config.batch_size - 1 : -1]

    def _update(self, step: int, drawn: list[Rasterized]) -> None:
        if self.config.only_visible:
            self._mark_visible(drawn)
        set_means_rate(self.optimizers, self._means_rate, step / self.config.max_steps)
        for optimizer in self._all_optimizers.values():
            optimizer.step()
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        for optimizer in self._all_optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def _mark_visible(self, drawn: list[Rasterized]) -> None:
        """Tell the optimizers which Gaussians this step showed."""
        visible = torch.zeros(len(self.splats["means"]), dtype=torch.bool, device=self.device)
        for item in drawn:
            ids = item.info["gaussian_ids"]
            if ids is None:
                visible |= shown(item.info["radii"]).any(dim=0)
            else:
                visible[ids] = True
        for optimizer in self.optimizers.values():
            if isinstance(optimizer, VisibleAdam):
                optimizer.visible = visible

    def _control_density(self, step: int, info: dict[str, Any]) -> None:
        step = max(step, 1)  # until 1.5.2 gsplat resets all opacities at step 0
        arguments = (self.splats, self.optimizers, self.strategy_state, step, info)
        if isinstance(self.strategy, MCMCStrategy):
            self.strategy.step_post_backward(*arguments, lr=self.optimizers["means"].param_groups[0]["lr"])
        else:
            self.strategy.step_post_backward(*arguments, packed=self.config.packed)

    # --- what comes out -----------------------------------------------------------------------------------------------

    def _report(self, step: int, losses: dict[str, Tensor]) -> None:
        config, done = self.config, step + 1
        last = done == config.max_steps
        if step % config.tb_every == 0 or last:
            values = {f"train/{name}_loss": value.item() for name, value in losses.items()}
            self.outputs.scalars(step, values | {"train/num_GS": float(len(self.splats["means"]))})
        if done in config.save_steps or last:
            self.save(step, self.seconds)
        if done in config.eval_steps or last:
            self.evaluate(step)
        self._bar.advance(done, lambda: {"loss": _total(losses), "splats": len(self.splats["means"])})
        self.viewer.after_step(step)

    def save(self, step: int, seconds: float = 0.0) -> None:
        """Write both kinds of checkpoint, statistics, and the splats. All ranks must call it."""
        folder, rank, self._saved = self.outputs.checkpoints, self.world.rank, step
        path, tidy = checkpoint.full_path(folder, step, rank), self.world.is_first
        with views_beside(path, self.repairs.store, checkpoint.FULL, checkpoint.views_named, tidy=tidy):
            checkpoint.save_full(path, self.state_dict())
        checkpoint.save_gsplat(checkpoint.gsplat_path(folder, step, rank), step, self.splats)
        memory = torch.cuda.max_memory_allocated() / 1024**3 if self.device.type == "cuda" else 0.0
        count = len(self.splats["means"])
        self.outputs.stats(
            f"train_step{step:04d}_rank{rank}", {"mem": memory, "ellipse_time": seconds, "num_GS": count}
        )
        self.outputs.say(f"Step {step} after {seconds:.0f} s: {count} Gaussians, saved to {folder}")
        if self.config.save_ply:
            self.export(self.outputs.ply(step))

    def export(self, path: Path) -> None:
        """Write the scene of all ranks in every format asked for, each with its suffix. All ranks must call it."""
        whole = self.world.gather(self.splats)
        if whole is not None:
            check_finite(whole, path.name, self.outputs.last_checkpoint())
            for kind in self.config.export_formats:
                write_splats(path.with_suffix(SUFFIXES[kind]), whole, kind, self.scene.origin)

    def evaluate(self, step: int, stage: str = "val") -> dict[str, float] | None:
        """Measure the held-out photos (first rank; None elsewhere). All ranks must call it."""
        cuda = [self.device] if self.device.type == "cuda" else []
        with self.whole_scene() as splats, torch.random.fork_rng(devices=cuda):  # enhancers may draw random numbers
            if not self.world.is_first:
                return None
            values = self.outputs.evaluate(self.scene, self.repairs, step, stage, len(splats["means"]))
        mark_quality(self.curves, step, values)
        return values

    # --- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Collect everything that an exact resume needs: tensors, lists, numbers."""
        return {
            "step": self.step,
            "world_size": self.world.size,
            "full_degree": self.full_degree_from_start,
            "splats": {name: self.splats[name] for name in NAMES},
            "optimizers": {name: optimizer_state(optimizer) for name, optimizer in self._all_optimizers.items()},
            "strategy": self.strategy_state,
            "extras": {name: dict(extra.module.state_dict()) for name, extra in self.extras.items()},
            "order": self._order,
            "shuffle": self._shuffle.get_state(),
            "random": random_state(),
            "repairs": self.repairs.state_dict(),
            "curves": self.curves.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], views: Path) -> None:
        """Continue after the step at which ``state_dict`` was taken.

        Args:
            state: as it was taken.
            views: the folder of its pseudo-views.

        Raises:
            InputError: when the state is of a run with other settings, or holds Gaussians beyond any scene; and when
                one of its pseudo-views is missing or damaged.
        """
        if not isinstance(state["step"], int) or state["step"] < 0:
            raise InputError(f"the checkpoint's step should be a number from 0 on, it is {state['step']!r}")
        check_splats(state["splats"], "the checkpoint")
        for name, value in state["splats"].items():
            if not (value.abs() <= FARTHEST).all():
                raise InputError(f"the checkpoint holds {name} that are not finite, or beyond {FARTHEST:g}")
        for name, found, wanted in (
            ("number of processes", state["world_size"], self.world.size),
            ("corrections (pose_opt, app_opt)", sorted(state["extras"]), sorted(self.extras)),
            ("density control", sorted(state["strategy"]), sorted(self.strategy_state)),
            ("sh_degree", degree_of(state["splats"]), degree_of(self.splats)),
        ):
            if found != wanted:
                raise InputError(f"the checkpoint is of a run with another {name}: {found}, here it is {wanted}")
        self._set_splats(state["splats"])
        for name, extra in self.extras.items():
            extra.module.load_state_dict(state["extras"][name])
        for name, optimizer in self._all_optimizers.items():
            set_optimizer_state(optimizer, state["optimizers"][name])
        self.strategy_state = on_device(state["strategy"], self.device)
        self.full_degree_from_start = state["full_degree"]
        self._order = list(state["order"])
        self._shuffle.set_state(state["shuffle"])
        self._random = state["random"]
        self.repairs.load_state_dict(state["repairs"], views)
        if "curves" in state:  # earlier versions kept none
            self.curves.load_state_dict(state["curves"])
        self.step = self._taken = self._saved = state["step"]
        self.first_step = self.step + 1

    @property
    def _all_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {**self.optimizers, **{name: extra.optimizer for name, extra in self.extras.items()}}


def _total(losses: dict[str, Tensor]) -> float:
    return sum(value.item() for value in losses.values())


def _raster_options(config: Config, distributed: bool) -> RasterOptions:
    """Say how a run draws its splats in training."""
    return RasterOptions(
        config.near_plane,
        config.far_plane,
        config.antialiased,
        config.packed,
        absgrad=getattr(config.strategy, "absgrad", False),
        distributed=distributed,
    )
