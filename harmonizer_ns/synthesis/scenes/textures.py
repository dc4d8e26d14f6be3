# SPDX-License-Identifier: Apache-2.0
"""Surface textures are procedural: each maker takes a random generator and a side length and returns a `Texture`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from harmonizer_ns.synthesis.scenes.patterns import (
    Texture,
    blend,
    cells,
    color,
    grid,
    noise,
    palette,
    ramp,
    smoothstep,
    wear,
)

TextureMaker = Callable[[np.random.Generator, int], Texture]
WORDS = "light field of view splat novel the a and one step north harbor no. 42 17 tea salt line over mill river"


def plaster(rng: np.random.Generator, size: int) -> Texture:
    """Painted wall: a near-constant colour with soft stains and a fine rough grain."""
    base = color(rng, (0.5, 0.92), 0.45)[None, None] * np.ones((size, size, 1), np.float32)
    bumps = 0.035 * noise(rng, size, 1.2) + 0.04 * noise(rng, size, 2.6)
    return np.clip(base * (1 + bumps[..., None]), 0, 1)


def mottled(rng: np.random.Generator, size: int) -> Texture:
    """Clouds of a palette at all scales: stone, rust, leather."""
    field = noise(rng, size, rng.uniform(1.5, 2.4))
    return ramp(smoothstep(-2, 2, field), palette(rng, 5))


def wood(rng: np.random.Generator, size: int) -> Texture:
    """Growth rings cut lengthwise, with fine grain along u."""
    _, v = grid(size)
    warp = noise(rng, size, 2.8, (6, 1))
    rings = (v * rng.integers(4, 12) + 0.35 * warp) % 1.0
    grain = noise(rng, size, 1.0, (24, 1))
    dark = np.array([0.30, 0.17, 0.09], np.float32) * rng.uniform(0.6, 1.6)
    light = np.array([0.72, 0.52, 0.33], np.float32) * rng.uniform(0.75, 1.2)
    field = np.clip(0.25 + 0.55 * rings + 0.11 * grain, 0, 1)
    return np.clip(ramp(field, np.stack([dark, (dark + 2 * light) / 3, light])), 0, 1)


def planks(rng: np.random.Generator, size: int) -> Texture:
    """Boards of wood along u, each cut from another place and of another tone, with dark seams."""
    boards, source = int(rng.integers(4, 9)), wood(rng, size)
    u, v = grid(size)
    row = (v * boards).astype(int)
    joints = rng.random(boards)[row]
    along = (u + joints) % 1.0
    half = (along * 2).astype(int)
    tone = rng.uniform(0.72, 1.18, (boards, 2))[row, half]
    rows = (np.arange(size)[:, None] + 37 * row * (half + 1)) % size
    columns = (np.arange(size)[None] + 101 * row + 53 * half) % size
    edge = np.minimum.reduce([(v * boards) % 1, 1 - (v * boards) % 1, (along * 2 % 1) * boards / 2])
    seam = 1 - smoothstep(0.0, 0.05, edge)
    return np.clip(source[rows, columns] * (tone * (1 - 0.75 * seam))[..., None], 0, 1)


def marble(rng: np.random.Generator, size: int) -> Texture:
    """Veined stone: ridges of turbulent noise."""
    veins = 1 - np.abs(np.tanh(1.5 * noise(rng, size, 2.4)))
    fine = 1 - np.abs(np.tanh(2.5 * noise(rng, size, 2.0)))
    field = np.clip(0.75 * veins**4 + 0.35 * fine**8, 0, 1)
    return ramp(1 - field, palette(rng, 4))


def mosaic(rng: np.random.Generator, size: int) -> Texture:
    """Irregular coloured stones with joints."""
    count = int(rng.integers(40, 160))
    near, gap, index = cells(rng, size, count)
    colors = palette(rng, 6)[rng.integers(0, 6, count)][index]
    colors = colors * (1.05 - 1.2 * near)[..., None] * (1 + 0.08 * noise(rng, size, 1.4))[..., None]
    return np.clip(blend(colors, color(rng, (0.15, 0.7), 0.2), 1 - smoothstep(0.004, 0.014, gap)), 0, 1)


def terrazzo(rng: np.random.Generator, size: int) -> Texture:
    """Chips of stone in a plain binder."""
    count = 300
    _, gap, index = cells(rng, size, count)
    chips = palette(rng, 5)[rng.integers(0, 5, count)][index]
    shown = smoothstep(0.006, 0.012, gap - 0.03 * rng.random(count)[index].astype(np.float32))
    return wear(rng, blend(plaster(rng, size), chips, shown * (rng.random(count) < 0.7)[index]), 0.5)


def checker(rng: np.random.Generator, size: int) -> Texture:
    """Two-coloured squares, slightly worn."""
    count = 2 * int(rng.integers(2, 6))
    u, v = grid(size)
    odd = ((u * count).astype(int) + (v * count).astype(int)) % 2
    return wear(rng, palette(rng, 2)[odd])


def tiles(rng: np.random.Generator, size: int) -> Texture:
    """Square ceramic tiles with a repeated ornament and light joints."""
    count, tile = int(rng.integers(3, 7)), max(size // 4, 8)
    half = ramp(smoothstep(-1.2, 1.2, noise(rng, tile, 2.6)), palette(rng, 3))
    quarter = (half + half.transpose(1, 0, 2)) / 2
    ornament = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    ornament = np.concatenate([ornament, ornament[::-1]], axis=0)
    u, v = grid(size)
    fu, fv = u * count % 1, v * count % 1
    picked = ornament[(fv * len(ornament)).astype(int), (fu * len(ornament)).astype(int)]
    edge = np.minimum(np.minimum(fu, 1 - fu), np.minimum(fv, 1 - fv))
    return wear(rng, blend(picked, color(rng, (0.5, 0.9), 0.1), 1 - smoothstep(0.015, 0.035, edge)), 0.6)


def bricks(rng: np.random.Generator, size: int) -> Texture:
    """Running-bond bricks of varied tone with rough mortar."""
    rows, columns = 2 * int(rng.integers(4, 8)), int(rng.integers(3, 6))
    u, v = grid(size)
    wobble = 0.0015 * noise(rng, size, 2.0)
    row = (v * rows).astype(int)
    along = (u + wobble) * columns + 0.5 * (row % 2)
    tone = rng.normal(1, 0.14, (rows, columns + 1)).astype(np.float32)
    tone = tone[row, along.astype(int) % columns]
    clay = palette(rng, 3)[1] if rng.random() < 0.4 else np.array([0.60, 0.31, 0.23], np.float32)
    face = clay * (tone * (1 + 0.13 * noise(rng, size, 1.1)))[..., None]
    fu, fv = along % 1, (v + wobble) * rows % 1
    edge = np.minimum(np.minimum(fu, 1 - fu) * rows / columns * 0.5, np.minimum(fv, 1 - fv))
    mortar = plaster(rng, size) * 0.85
    return np.clip(blend(face, mortar, 1 - smoothstep(0.05, 0.12, edge)), 0, 1)


def fabric(rng: np.random.Generator, size: int) -> Texture:
    """Plaid: coloured stripes both ways, with the weave visible."""
    count = int(rng.integers(8, 20))
    stripes = palette(rng, 4)[rng.integers(0, 4, count)]
    index = np.arange(size) * count // size
    warp, weft = stripes[index][None], stripes[index][:, None]
    threads = max(size // 8, 8)
    u, v = grid(size)
    over = (np.sin(2 * np.pi * u * threads) * np.sin(2 * np.pi * v * threads) > 0).astype(np.float32)
    shade = 0.85 + 0.15 * np.abs(np.sin(np.pi * (u + v) * threads))
    return wear(rng, (warp * over[..., None] + weft * (1 - over[..., None])) * shade[..., None], 0.7)


def stripes(rng: np.random.Generator, size: int) -> Texture:
    """Parallel lines of changing width."""
    count = int(rng.integers(10, 40))
    colors = palette(rng, 5)[rng.integers(0, 5, count)]
    edges = np.sort(rng.random(count))
    _, v = grid(size)
    return wear(rng, colors[np.searchsorted(edges, v.ravel()) % count].reshape(size, size, 3), 0.8)


def rug(rng: np.random.Generator, size: int) -> Texture:
    """Mirrored ornament in flat colours with a border and a knotted grain."""
    quarter = noise(rng, size // 2, 2.3)
    field = np.block([[quarter, quarter[:, ::-1]], [quarter[::-1], quarter[::-1, ::-1]]])
    colors = palette(rng, 5)[rng.permutation(5)]
    flat = colors[np.digitize(field, [-0.9, -0.2, 0.4, 1.0])]
    u, v = grid(field.shape[0])
    border = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v))
    flat = blend(flat, colors[0], (border < 0.09).astype(np.float32) * (border > 0.06))
    flat = np.asarray(Image.fromarray(to_uint8(flat)).resize((size, size)), np.float32) / 255
    return np.clip(flat * (1 + 0.16 * noise(rng, size, 0.2))[..., None], 0, 1)


def ground(rng: np.random.Generator, size: int) -> Texture:
    """Grass, soil, gravel or asphalt: strong fine grain over slow changes."""
    tints = np.array([[0.29, 0.34, 0.14], [0.42, 0.33, 0.22], [0.52, 0.50, 0.47], [0.30, 0.30, 0.31]], np.float32)
    first, second = tints[rng.permutation(4)[:2]]
    mixed = blend(np.broadcast_to(first, (size, size, 3)), second, smoothstep(0.2, 1.6, noise(rng, size, 2.2)))
    grain = 0.22 * noise(rng, size, 0.7) + 0.12 * noise(rng, size, 1.8)
    return np.clip(mixed * (1 + grain)[..., None], 0.02, 1)


def poster(rng: np.random.Generator, size: int) -> Texture:
    """Printed matter: a heading, paragraphs of small text and flat shapes."""
    colors = [tuple(c) for c in to_uint8(palette(rng, 5))[rng.permutation(5)].tolist()]
    ink = (20, 20, 25) if sum(colors[0]) > 330 else (240, 238, 230)
    image = Image.new("RGB", (size, size), colors[0])
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 9))):
        _shape(rng, draw, size, colors[int(rng.integers(1, 5))])
    y = int(size * rng.uniform(0.02, 0.1))
    while y < 0.95 * size:
        heading = rng.random() < 0.2
        height = int(size * (rng.uniform(0.1, 0.2) if heading else rng.uniform(0.03, 0.055)))
        text = " ".join(rng.choice(WORDS.split(), 3 if heading else 9))
        draw.text((int(size * 0.05), y), text, fill=ink, font=ImageFont.load_default(height))
        y += int(1.25 * height) + int(size * 0.04 * (rng.random() < 0.25))
    return wear(rng, np.asarray(image, np.float32) / 255, 0.4)


def scribbles(rng: np.random.Generator, size: int) -> Texture:
    """Many overlapping shapes and lines of all sizes on a mottled base."""
    image = Image.fromarray(to_uint8(mottled(rng, size)))
    draw = ImageDraw.Draw(image)
    colors = to_uint8(palette(rng, 6)).tolist()
    for i in range(70):
        _shape(rng, draw, int(size * (1 - i / 90)), tuple(colors[int(rng.integers(6))]), size)
    return wear(rng, np.asarray(image, np.float32) / 255, 0.6)


def leafage(rng: np.random.Generator, size: int) -> Texture:
    """A leaf: a midrib along u, side veins and blotches."""
    u, v = grid(size)
    hue = rng.uniform(0.5, 1.3)
    green = np.array([0.25 * hue, 0.36, 0.13], np.float32) * rng.uniform(0.6, 1.5)
    veins = np.abs(((u + np.abs(v - 0.5) * 0.8) * 9) % 1 - 0.5)
    lines = np.maximum(1 - smoothstep(0.0, 0.07, veins), 1 - smoothstep(0.0, 0.03, np.abs(v - 0.5)))
    body = green * (1 + 0.16 * noise(rng, size, 1.8))[..., None]
    return np.clip(blend(body, np.minimum(green * 1.9, 1), 0.7 * lines), 0, 1)


def _shape(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, scale: int, fill: tuple[int, ...], size: int | None = None
) -> None:
    """Draw one random ellipse, box or line."""
    size = size or scale
    x, y = rng.integers(0, size, 2).tolist()
    w, h = (scale * rng.uniform(0.03, 0.35, 2)).astype(int).tolist()
    kind = rng.integers(3)
    if kind == 0:
        draw.ellipse((x, y, x + w, y + h), fill=fill)
    elif kind == 1:
        draw.rectangle((x, y, x + w, y + h), fill=fill)
    else:
        ends = rng.integers(0, size, 2).tolist()
        draw.line((x, y, *ends), fill=fill, width=max(1, scale // 60))


TEXTURES: dict[str, TextureMaker] = {maker.__name__: maker for maker in (
    plaster, mottled, wood, planks, marble, mosaic, terrazzo, checker, tiles, bricks, fabric, stripes, rug, ground,
    poster, scribbles, leafage,
)}  # fmt: skip
"""All makers by name. Their order counts: scenes draw by it."""


def to_uint8(image: np.ndarray) -> UInt8[np.ndarray, " ..."]:
    """Round floats in [0, 1] to 8 bits."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def photo_crop(rng: np.random.Generator, path: Path, size: int) -> Texture:
    """Cut a random square out of a photo, resampled to ``size``."""
    with Image.open(path) as image:
        side = int(min(image.size) * rng.uniform(0.35, 1.0))
        x, y = (int(rng.integers(0, extent - side + 1)) for extent in image.size)
        crop = image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS, (x, y, x + side, y + side))
    return np.asarray(crop, np.float32) / 255


def random_texture(rng: np.random.Generator, size: int, photos: Sequence[Path] = ()) -> Texture:
    """Draw any texture of the table, or now and then a crop of one of ``photos``."""
    if photos and rng.random() < 0.3:
        return photo_crop(rng, photos[int(rng.integers(len(photos)))], size)
    names = [name for name in TEXTURES if name not in ("leafage", "plaster")]
    return TEXTURES[names[int(rng.integers(len(names)))]](rng, size)


def texture_among(rng: np.random.Generator, size: int, shares: dict[str, float]) -> Texture:
    """Draw one of the named textures, each as often as its share says; shares add up to 1."""
    return TEXTURES[list(shares)[rng.choice(len(shares), p=list(shares.values()))]](rng, size)
