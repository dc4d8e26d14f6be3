# SPDX-License-Identifier: Apache-2.0
"""Procedural textures are built from these blocks: coloured noise, cells, palettes, wear.

A texture is a square float32 array ``size size 3`` in display (sRGB) values [0, 1]; a field is ``size size``.
Everything tiles, and everything follows from the random generator that is passed in.
"""

from __future__ import annotations

import colorsys

import numpy as np
from jaxtyping import Float, Int

Field = Float[np.ndarray, "size size"]
Texture = Float[np.ndarray, "size size 3"]


def noise(rng: np.random.Generator, size: int, beta: float = 2.0, stretch: tuple[float, float] = (1.0, 1.0)) -> Field:
    """Draw a Gaussian field of power spectrum ``1/f^beta``, zero mean, unit variance.

    Natural images have ``beta`` near 2. ``stretch`` elongates the features along (x, y).
    """
    fx = np.fft.fftfreq(size)[None, : size // 2 + 1] * stretch[0]
    fy = np.fft.fftfreq(size)[:, None] * stretch[1]
    frequency = np.sqrt(fx**2 + fy**2)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) * frequency ** (-beta / 2)
    field = np.fft.irfft2(spectrum, s=(size, size))
    return (field / max(field.std(), 1e-9)).astype(np.float32)


def grid(size: int) -> tuple[Field, Field]:
    """Texture coordinates (u to the right, v downwards) of the texel centres, in (0, 1)."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    u, v = np.meshgrid(axis, axis)
    return u, v


def smoothstep(low: float, high: float, x: Field) -> Field:
    """Cubic step from 0 at ``low`` to 1 at ``high``."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def cells(rng: np.random.Generator, size: int, count: int) -> tuple[Field, Field, Int[np.ndarray, "size size"]]:
    """Divide the torus into the Voronoi cells of ``count`` random sites.

    Returns:
        Distance to the nearest site, distance gap to the second nearest (0 on cell borders), index of the cell.
    """
    sites = rng.random((count, 2), dtype=np.float32)
    u, v = grid(size)
    first = np.full((size, size), np.inf, dtype=np.float32)
    second, index = first.copy(), np.zeros((size, size), dtype=np.int64)
    for i, (x, y) in enumerate(sites):
        du, dv = np.abs(u - x), np.abs(v - y)
        distance = np.hypot(np.minimum(du, 1 - du), np.minimum(dv, 1 - dv))
        closer = distance < first
        second = np.where(closer, first, np.minimum(second, distance))
        index[closer] = i
        first = np.minimum(first, distance)
    return first, second - first, index


def hue(rng: np.random.Generator) -> float:
    """Draw a hue in [0, 1): mostly earth tones, then blues and greens, seldom anything else."""
    center, width = ((0.08, 0.04), (0.6, 0.05), (0.28, 0.06), (0.0, 0.5))[rng.choice(4, p=[0.5, 0.2, 0.15, 0.15])]
    return float((center + width * rng.standard_normal()) % 1)


def color(rng: np.random.Generator, value: tuple[float, float] = (0.25, 0.9), saturation: float = 0.75) -> np.ndarray:
    """Draw a colour; saturated ones are rarer than muted ones, as in photographs."""
    s = saturation * rng.random() ** 1.5
    return np.array(colorsys.hsv_to_rgb(hue(rng), s, rng.uniform(*value)), dtype=np.float32)


def palette(rng: np.random.Generator, count: int) -> Float[np.ndarray, "count 3"]:
    """Draw colours that belong together: hues near one or two anchors, values spread from dark to light."""
    anchors = np.array([hue(rng), hue(rng)])
    hues = anchors[rng.integers(0, 2, count)] + 0.05 * rng.standard_normal(count)
    values = np.linspace(rng.uniform(0.12, 0.4), rng.uniform(0.65, 0.95), count)
    saturations = rng.uniform(0.05, 0.65) * rng.uniform(0.5, 1.1, count)
    mixed = [colorsys.hsv_to_rgb(h % 1, min(s, 1), v) for h, s, v in zip(hues, saturations, values, strict=True)]
    return np.array(mixed, dtype=np.float32)


def ramp(field: Field, colors: Float[np.ndarray, "count 3"]) -> Texture:
    """Map a field in [0, 1] through a piecewise linear colour ramp."""
    stops = np.linspace(0, 1, len(colors))
    channels = [np.interp(field, stops, colors[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def blend(base: Texture, top: Texture | np.ndarray, mask: Field) -> Texture:
    """Show ``base`` where the mask is 0, ``top`` where it is 1."""
    return base + (top - base) * np.clip(mask, 0, 1)[..., None]


def wear(rng: np.random.Generator, texture: Texture, amount: float = 1.0) -> Texture:
    """Add uneven brightness, fine grain and stains: no real surface has one flat colour."""
    size = texture.shape[0]
    shade = 1 + amount * (0.09 * noise(rng, size, 2.4) + 0.05 * noise(rng, size, 1.0))
    stains = smoothstep(0.8, 2.4, noise(rng, size, 2.2)) * amount * rng.uniform(0, 0.5)
    return np.clip(blend(texture * shade[..., None], color(rng, (0.1, 0.5), 0.4), stains), 0, 1)
