# SPDX-License-Identifier: Apache-2.0
"""A diffusion model relights: any image-to-image pipeline of diffusers, by choice with IC-Light's weights.

Of what the model paints only the light is kept: the ratio of its local mean to the photo's, in linear light. Texture
stays the photo's, so that a pair's input and target show the same thing.

IC-Light (Zhang et al. 2025, text-conditioned foreground model) is Stable Diffusion 1.5 whose UNet has four more input
channels, for the foreground's latents; its file holds what is to be added to the UNet's weights.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.errors import InputError, first_line
from harmonizer_ns.files import find_folder
from harmonizer_ns.images import Padding, local_mean
from harmonizer_ns.synthesis.streams.shading import to_linear

_IC_LIGHT_FILE = "iclight_sd15_fc.safetensors"
_LATENT_STEP = 8


@dataclass(frozen=True)
class DiffusionSettings:
    """These settings name a model that relights instead of spherical harmonics."""

    model: str = ""
    """Folder or Hub repository of a Stable Diffusion pipeline with safetensors; empty: none."""
    ic_light: str = ""
    """File with IC-Light's weights, or the Hub repository that has it (lllyasviel/ic-light); empty: plain model."""
    prompts: tuple[str, ...] = (
        "warm sunset light from the left",
        "cold moonlight from the right",
        "hard light from above",
        "dim soft light",
        "neon light",
    )
    """One is drawn for each clip."""
    strength: float = 0.6
    """How far the model may leave the photo."""
    steps: int = 20
    """Denoising steps."""
    guidance: float = 3.0
    """Weight of the prompt."""

    def __post_init__(self) -> None:
        if not self.prompts or not 0 < self.strength <= 1 or self.steps * self.strength < 1 or self.guidance < 0:
            raise ValueError(f"need prompts, strength in (0, 1], steps * strength >= 1 and guidance >= 0, got {self}")
        if self.ic_light and not self.model:
            raise ValueError("ic_light needs model, a Stable Diffusion 1.5 pipeline")


def diffusion_gain(
    frames: Float[Tensor, "n 3 h w"],
    masks: Float[Tensor, "n 1 h w"],
    settings: DiffusionSettings,
    bound: float,
    seed: int,
) -> tuple[Float[Tensor, "n 3 h w"], dict[str, Any]]:
    """Paint a clip's ratio images, within ``[1 / bound, bound]``; noise and prompt, also returned, last over the clip.

    Raises:
        InputError: when the model cannot be loaded.
    """
    pipeline = _load(settings.model, settings.ic_light)
    prompt = random.Random(seed).choice(settings.prompts)
    painted = torch.cat(
        [_paint(pipeline, f[None], m[None], prompt, settings, seed) for f, m in zip(frames, masks, strict=True)]
    )
    side = 2 * (frames.shape[-1] // 40) + 1
    new, old = (local_mean(to_linear(image), side) + 1e-3 for image in (painted, frames))
    return (new / old).clamp(1 / bound, bound), {"prompt": prompt, "seed": seed}


@torch.inference_mode()
def _paint(
    pipeline: Any, frame: Tensor, mask: Tensor, prompt: str, settings: DiffusionSettings, seed: int
) -> Float[Tensor, "1 3 h w"]:
    padding = Padding.to_multiple(frame.shape[-2], frame.shape[-1], _LATENT_STEP)
    padded = padding.apply(frame)
    foreground = padding.apply(torch.lerp(torch.full_like(frame, 0.5), frame, mask))
    with _shown(pipeline, foreground):
        painted = pipeline(
            prompt=prompt,
            image=padded,
            strength=settings.strength,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
        ).images
    return padding.undo(painted).clamp(0, 1).clone()


@contextmanager
def _shown(pipeline: Any, foreground: Tensor) -> Iterator[None]:
    """An IC-Light UNet sees the foreground's latents beside the noise; another one sees nothing."""
    unet = pipeline.unet
    if unet.conv_in.in_channels != 2 * pipeline.vae.config.latent_channels:
        yield
        return
    latents = pipeline.vae.encode(2 * foreground - 1).latent_dist.mode() * pipeline.vae.config.scaling_factor

    def join(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        sample, *others = arguments
        return torch.cat([sample, latents.expand(len(sample), -1, -1, -1)], 1), *others

    hook = unet.register_forward_pre_hook(join)
    try:
        yield
    finally:
        hook.remove()


@lru_cache(maxsize=1)
def _load(model: str, ic_light: str) -> Any:
    from diffusers.pipelines.auto_pipeline import AutoPipelineForImage2Image
    from diffusers.utils import logging

    try:
        pipeline: Any = AutoPipelineForImage2Image.from_pretrained(
            model, use_safetensors=True, safety_checker=None, requires_safety_checker=False
        )
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"cannot load {model} for relighting ({first_line(error)}): it should be a folder or Hub repository of a "
            "Stable Diffusion pipeline with safetensors; where there is no network, download it elsewhere (hf "
            "download), or leave diffusion.model empty"
        ) from error
    logging.disable_progress_bar()
    pipeline.set_progress_bar_config(disable=True)
    if ic_light:
        _add_ic_light(pipeline.unet, ic_light)
    return pipeline


def _add_ic_light(unet: Any, place: str) -> None:
    """Widen the UNet's first layer by zeros for the foreground, then add IC-Light's offsets to all weights."""
    from safetensors.torch import load_file

    offsets = load_file(_ic_light_file(place))
    old = unet.conv_in
    new = torch.nn.Conv2d(2 * old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    state = {**unet.state_dict(), "conv_in.weight": torch.cat([old.weight, torch.zeros_like(old.weight)], 1).detach()}
    if bad := [name for name, value in state.items() if name not in offsets or offsets[name].shape != value.shape]:
        raise InputError(f"{place} does not fit the model: {len(bad)} of {len(state)} weights, first {bad[0]}")
    unet.conv_in = new
    unet.load_state_dict({name: value + offsets[name].to(value) for name, value in state.items()})


def _ic_light_file(place: str) -> Path:
    path = Path(place)
    if not path.is_file():
        path = find_folder(place, [_IC_LIGHT_FILE]) / _IC_LIGHT_FILE
    if not path.is_file():
        raise InputError(f"{place} has no {_IC_LIGHT_FILE}")
    return path
