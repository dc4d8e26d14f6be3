# SPDX-License-Identifier: Apache-2.0
"""What photos say of depth is measured and shown: how much they cover, how right it is, and contact sheets."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from harmonizer_ns.captures.capture import Capture, pose_files
from harmonizer_ns.captures.transforms import read_meta
from harmonizer_ns.drawing import colored, colored_depth, draw_points
from harmonizer_ns.errors import damage_of
from harmonizer_ns.images import contact_sheet, labelled, opened_image, resize, save_image, to_float
from harmonizer_ns.report import Cell, Report, Table, View, heading
from harmonizer_ns.spread import evenly_spread
from harmonizer_ns.stereo.depth import DepthMap
from harmonizer_ns.stereo.fusion import Seeds
from harmonizer_ns.stereo.geometry import look_at
from harmonizer_ns.stereo.settings import StereoSettings
from harmonizer_ns.stereo.views import carry, inside
from harmonizer_ns.types import Cameras
from harmonizer_ns.warp import inverted, pixel_grid, sample

ROWS, FROM_ELSEWHERE = 8, 4
"""Photos on a contact sheet, and photos that were not used from whose places the seeds are shown."""
_RIGHT, _SEEN = 0.01, 0.02
"""Relative error of depth that is right; relative difference at which two photos show the same point."""
_MILLIMETRES = 1e-3
"""Unit of true depths in 16-bit images, as nerfstudio has it."""

Depth = Float[Tensor, "h w"]


@dataclass(frozen=True)
class StereoResult:
    """Holds what was found in one capture.

    Args:
        name: of the capture.
        maps: of the photos that were used.
        seeds: that they give.
        seconds: that a photo took, with everything.
        views: pictures of some photos.
        truths: depth that is known to be true, for those photos that have it.
        points: how many the capture brought itself.
    """

    name: str
    maps: list[DepthMap]
    seeds: Seeds
    seconds: float
    views: tuple[View, ...]
    truths: list[Depth | None]
    points: int


def examine(capture: Capture, settings: StereoSettings, most: int, device: str) -> StereoResult:
    """Find depth and seeds of a capture's photos to learn from, at most so many, and make pictures of them."""
    used = evenly_spread(capture.train or range(len(capture)), most)
    part = capture.part(used).to("cpu")
    start = time.perf_counter()
    found = look_at(part, settings, device)
    maps, seeds = found.maps, found.seeds
    seconds = (time.perf_counter() - start) / len(used)
    truths = true_depths(part, [m.camera for m in maps])
    shown = evenly_spread(range(len(used)), ROWS)
    views = [_view(part, i, maps[i], seeds, truths[i]) for i in shown]
    unused = evenly_spread([i for i in range(len(capture)) if i not in set(used)], FROM_ELSEWHERE)
    for i in unused:
        camera = capture.cameras[i].to("cpu").resized(maps[0].camera.width, maps[0].camera.height)
        pictures = {"photo": _photo(capture, i, camera), "seeds": draw_points(seeds.points, seeds.colors, camera)}
        views.append(View(f"{capture.names[i]} (not used)", pictures, {}, 0.0))
    return StereoResult(capture.name, maps, seeds, seconds, tuple(views), truths, len(capture.points))


# --- pictures ---------------------------------------------------------------------------------------------------------


def _view(capture: Capture, index: int, found: DepthMap, seeds: Seeds, truth: Depth | None) -> View:
    pictures = {
        "photo": _photo(capture, index, found.camera),
        "depth": colored_depth(found.depth),
        "confidence": colored(found.confidence) * torch.where(found.sure, 1.0, 0.4),
        "normals": ((found.normals() + 1) / 2 * (found.depth > 0)[..., None]).permute(2, 0, 1),
        "seeds": draw_points(seeds.points, seeds.colors, found.camera),
    }
    scores = {"known": share(found.depth > 0), "sure": share(found.sure)}
    if truth is not None:
        error = (found.depth / truth.clamp(min=1e-12) - 1) / (6 * _RIGHT) + 0.5
        known = (found.depth > 0) & (truth > 0)
        pictures["error"] = torch.where(known, colored(error, "seismic"), torch.where(found.sure | known, 0.0, 0.5))
        scores["sure and right"] = share(is_right(found, truth)[found.sure & (truth > 0)])
    return View(capture.names[index], pictures, scores, scores["sure"])


def _photo(capture: Capture, index: int, camera: Cameras) -> Float[Tensor, "3 h w"]:
    return resize(to_float(capture.photo(index))[None].cpu(), camera.height, camera.width)[0]


def write_sheet(path: Path, result: StereoResult) -> None:
    """Write a capture's contact sheet: a row for each photo, a column for each kind of picture."""
    pictures = [cast("Mapping[str, Tensor]", view.pictures) for view in result.views]
    first, blank = pictures[0], torch.ones_like(pictures[0]["photo"])
    rows = [[some.get(name, blank) for name in first] for some in pictures]
    save_image(path, contact_sheet([[labelled(dict(zip(first, rows[0], strict=True)))], *rows[1:]]))


# --- truth ------------------------------------------------------------------------------------------------------------


def true_depths(capture: Capture, cameras: Sequence[Cameras]) -> list[Depth | None]:
    """Read the depth that nerfstudio's ``depth_file_path`` gives, ``.npy`` in scene units or 16-bit millimetres.

    Args:
        capture: whose photos are not undistorted.
        cameras: of the sizes that are wanted; nearest pixels are taken.
    """
    described_by = pose_files(capture.folder)
    if capture.is_undistorted or not described_by or described_by[0].name != "transforms.json":
        return [None] * len(capture)
    files = {frame["file_path"]: frame.get("depth_file_path") for frame in read_meta(described_by[0])["frames"]}
    return [
        None if files.get(name) is None else _true_depth(capture.folder / files[name], camera)
        for name, camera in zip(capture.names, cameras, strict=True)
    ]


def _true_depth(path: Path, camera: Cameras) -> Depth:
    if path.suffix == ".npy":
        with damage_of(path):
            depth = np.load(path)
    else:
        with opened_image(path) as image:
            depth = np.array(image) * _MILLIMETRES
    given = torch.from_numpy(depth.astype(np.float32))[None, None]
    return F.interpolate(given, (camera.height, camera.width), mode="nearest-exact")[0, 0]


def is_right(found: DepthMap, truth: Depth) -> Bool[Tensor, "h w"]:
    """Tell where depth is within 1% of the truth."""
    return (found.depth - truth).abs() <= _RIGHT * truth


def seen_twice(index: int, truths: Sequence[Depth | None], cameras: Sequence[Cameras]) -> Bool[Tensor, "h w"]:
    """Tell which pixels of a photo show what another photo shows too."""
    camera, truth = cameras[index], truths[index]
    seen = torch.zeros(camera.height, camera.width, dtype=torch.bool)
    if truth is None:
        return seen
    inverse = inverted(truth)
    for j, (other, depth) in enumerate(zip(cameras, truths, strict=True)):
        if j != index and depth is not None:
            pixels, expected = carry(pixel_grid(camera.width, camera.height), inverse, camera, other)
            found = sample((1 / depth.clamp(min=1e-12))[None, None], pixels[None])[0, 0]
            seen |= inside(pixels, other) & ((found / expected.clamp(min=1e-12) - 1).abs() < _SEEN)
    return seen & (truth > 0)


def precision(maps: Sequence[DepthMap], truths: Sequence[Depth | None]) -> float:
    """Measure the share of sure pixels whose depth is right, of those whose truth is known."""
    pairs = [(m, truth) for m, truth in zip(maps, truths, strict=True) if truth is not None]
    return share(torch.cat([is_right(m, truth)[m.sure & (truth > 0)] for m, truth in pairs]))


def covered(maps: Sequence[DepthMap], truths: Sequence[Depth | None]) -> float:
    """Measure how many pixels are sure, for each pixel that at least two photos show."""
    cameras = [m.camera for m in maps]
    seen = sum(int(seen_twice(i, truths, cameras).sum()) for i in range(len(maps)))
    sure = sum(int((m.sure & (truth > 0)).sum()) for m, truth in zip(maps, truths, strict=True) if truth is not None)
    return sure / max(seen, 1)


def share(flags: Bool[Tensor, "*some"]) -> float:
    """Measure how many of the flags are set; nan without any."""
    return flags.float().mean().item()


# --- report -----------------------------------------------------------------------------------------------------------


def stereo_report(results: Sequence[StereoResult], settings: dict) -> Report:
    """Tell what the photos of all captures give."""
    columns = ("capture", "photos", "size", "known %", "sure %", "seconds a photo", "seeds", "the capture's points")
    truth = (heading("sure within 1% of the truth, %", "higher"), heading("of what two photos show, %", "higher"))
    told = any(truth is not None for result in results for truth in result.truths)
    rows = tuple(_row(result, told) for result in results)
    names = ", ".join(result.name for result in results)
    sizes = [sum(len(r.maps) for r in results), sum(len(r.seeds) for r in results)]
    table = Table(
        "Depth from the photos",
        columns + truth * told,
        rows,
        "Shares of all pixels; known: depth was found at all; sure: it is to be relied on.",
    )
    galleries = {result.name: result.views for result in results}
    summary = f"{sizes[0]} photos of {len(results)} captures give {sizes[1]:,} seed points."
    return Report(f"Depth from the photos of {names}", (summary,), (table,), settings=settings, galleries=galleries)


def _row(result: StereoResult, with_truth: bool) -> tuple[Cell, ...]:
    size = f"{result.maps[0].camera.width}x{result.maps[0].camera.height}"
    known = share(torch.cat([(m.depth > 0).flatten() for m in result.maps]))
    sure = share(torch.cat([m.sure.flatten() for m in result.maps]))
    row: tuple[Cell, ...] = (result.name, len(result.maps), size, 100 * known, 100 * sure, result.seconds)
    row += (len(result.seeds), result.points)
    if not with_truth:
        return row
    if all(truth is None for truth in result.truths):
        return *row, None, None
    return *row, 100 * precision(result.maps, result.truths), 100 * covered(result.maps, result.truths)
