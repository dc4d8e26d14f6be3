# SPDX-License-Identifier: Apache-2.0
"""This module fits a small nerfacto to photos (the `Reconstructor` protocol), in about a minute on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from torch import Tensor

from harmonizer_ns.captures.frame import Similarity
from harmonizer_ns.plugin.cameras import to_nerfstudio
from harmonizer_ns.plugin.method import harmonize_nerf_tiny
from harmonizer_ns.plugin.models import HarmonizeNerfactoModel, HarmonizeNerfactoModelConfig
from harmonizer_ns.plugin.renderer import ModelRenderer
from harmonizer_ns.plugin.state import callbacks_of, run_callbacks
from harmonizer_ns.progress import counted
from harmonizer_ns.types import Cameras, Frames, cat_cameras

_NEAR, _FAR = 0.1, 30.0
"""Ends of a ray, in half-widths of the box. nerfacto's own, 0.05 and 1000, put half of few samples before 0.1."""


@dataclass(frozen=True)
class NerfConfig:
    """How a NeRF is fitted; the network is that of ``harmonize-nerf-tiny``."""

    steps: int = 400
    """Optimisation steps."""
    seed: int = 0
    """Seed of the weights and of all that is sampled: on a CPU with one thread, equal seeds give equal NeRFs."""
    rays: int = 1024
    """Rays of a step, drawn evenly from all pixels."""
    rate: float = 0.03
    """Adam's step size; falls exponentially to a tenth of this."""
    min_alpha: float = 0.3
    """Rendered depth is 0 where the accumulated opacity is not above this: so short a fit leaves haze, whose depth says
    where no surface is."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rays < 1 or self.rate <= 0:
            raise ValueError(f"need steps >= 1, rays >= 1 and rate > 0, got {self}")


def unit_box(cameras: Cameras, points: Float[Tensor, "p 3"]) -> Similarity:
    """The way into the box of half-width 1 that nerfacto does not contract: ``x -> s (x - c)``.

    The cameras and the nearer half of the seed points lie in it.
    """
    centers = cameras.centers.double().cpu()
    center = (centers.amax(0) + centers.amin(0)) / 2
    reach = (centers - center).abs().amax()
    if len(points):
        reach = torch.maximum(reach, (points.to(center) - center).abs().amax(1).quantile(0.5))
    way = torch.eye(4, dtype=torch.float64)
    way[:3, 3] = -center
    way[:3] /= reach.item() or 1.0
    return Similarity(way)


def _moved(cameras: Cameras, way: Similarity) -> Cameras:
    poses = way.poses(cameras.camera_to_world.cpu())
    return replace(cameras, camera_to_world=poses.to(cameras.camera_to_world))


class NerfRenderer:
    """Renders a fitted NeRF in the scene's own frame.

    Args:
        model: trained in the box.
        box: the way from the scene's frame into the box.
        min_alpha: depth is 0 where the accumulated opacity is not above this.
    """

    def __init__(self, model: HarmonizeNerfactoModel, box: Similarity, min_alpha: float) -> None:
        self._renderer, self._box = ModelRenderer(model, min_alpha), box

    def render(self, cameras: Cameras) -> Frames:
        """Colour, opacity and median depth of every camera."""
        frames = self._renderer.render(_moved(cameras, self._box))
        return replace(frames, depth=frames.depth / self._box.scale, cameras=cameras.to(frames.depth.device))


class NerfReconstructor:
    """Fits nerfacto to photos, on their device.

    Args:
        config: how to fit.
    """

    def __init__(self, config: NerfConfig | None = None) -> None:
        self.config = config or NerfConfig()

    def fit(self, photos: list[Frames], points: Float[Tensor, "p 3"], colors: Float[Tensor, "p 3"]) -> NerfRenderer:
        """Fit to photos (batches of one; sizes may differ); of the seed points only their extent is used.

        Raises:
            ValueError: without photos.
        """
        del colors
        if not photos:
            raise ValueError("a NeRF needs photos, got none")
        device = photos[0].rgb.device
        pixels = Pixels(photos)
        box = unit_box(pixels.cameras, points)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.config.seed)
            model = _build_model(len(photos), self.config.steps).to(device)
            _optimize(model, pixels, to_nerfstudio(_moved(pixels.cameras, box)), self.config)
        return NerfRenderer(model, box, self.config.min_alpha)


class Pixels:
    """Holds all pixels of all photos, to draw from."""

    def __init__(self, photos: list[Frames]) -> None:
        # Rays of a pixel depend on no size.
        self.cameras = cat_cameras([replace(photo.cameras, width=1, height=1) for photo in photos])
        self._colors = torch.cat([photo.rgb[0].flatten(1).T for photo in photos])
        self._widths = torch.tensor([photo.cameras.width for photo in photos])
        self._ends = torch.tensor([photo.cameras.width * photo.cameras.height for photo in photos]).cumsum(0)

    def draw(self, count: int) -> tuple[Int[Tensor, "n 1"], Float[Tensor, "n 2"], Float[Tensor, "n 3"]]:
        """Random pixels: their photos' indices, their centres (y, x), their colours."""
        chosen = torch.randint(len(self._colors), (count,))
        photo = torch.searchsorted(self._ends, chosen, right=True)
        inside = chosen - torch.cat([self._ends.new_zeros(1), self._ends])[photo]
        width = self._widths[photo]
        places = torch.stack([inside // width, inside % width], dim=1) + 0.5
        return photo[:, None], places, self._colors[chosen.to(self._colors.device)]


def _build_model(photos: int, steps: int) -> HarmonizeNerfactoModel:
    """The network of ``harmonize-nerf-tiny``, its schedules shortened to the run."""
    tiny = harmonize_nerf_tiny.config.pipeline.model
    assert isinstance(tiny, HarmonizeNerfactoModelConfig)
    config = replace(
        tiny,
        near_plane=_NEAR,
        far_plane=_FAR,
        average_init_density=1.0,  # the tiny method's 0.01 takes a thousand steps to become opaque
        proposal_weights_anneal_max_num_iters=max(1, steps // 2),
        proposal_warmup=steps,
    )
    model = config.setup(
        scene_box=SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3])), num_train_data=photos, metadata={}, device="cpu"
    )
    assert isinstance(model, HarmonizeNerfactoModel)
    return model.train()


def _optimize(model: HarmonizeNerfactoModel, pixels: Pixels, cameras: NerfstudioCameras, config: NerfConfig) -> None:
    """Train as nerfstudio's loop does, without what is around it."""
    parameters = [value for group in model.get_param_groups().values() for value in group]
    optimizer = torch.optim.Adam(parameters, lr=config.rate, eps=1e-15)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1 / config.steps))
    callbacks = callbacks_of(model)
    for step in counted(range(config.steps), "steps of a fit"):
        run_callbacks(callbacks, step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        photo, places, colors = pixels.draw(config.rays)
        bundle: RayBundle = cameras.generate_rays(camera_indices=photo, coords=places)
        outputs, batch = model(bundle), {"image": colors}
        losses = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        decay.step()
        run_callbacks(callbacks, step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
