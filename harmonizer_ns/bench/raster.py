# SPDX-License-Identifier: Apache-2.0
"""How fast and how large: our rasterizer against gsplat's pure torch reference on random scenes."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harmonizer_ns.raster.api import rasterization_cpu
from harmonizer_ns.raster.checks import TILE_SIZE
from harmonizer_ns.raster.threads import set_num_threads

DEGREE = 3
Clock = Callable[[], float]


@dataclass(frozen=True)
class Scene:
    """Leaf tensors of random Gaussians with degree-3 harmonics, and one camera that looks at them."""

    parameters: dict[str, Tensor]
    camera: dict[str, Any]


@dataclass(frozen=True)
class Timing:
    """Best of several runs, in milliseconds."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Of both."""
        return self.forward + self.backward


@dataclass(frozen=True)
class RasterBench:
    """Time the CPU rasterizer and gsplat's torch reference; tabulate memory against tile hits."""

    num_gaussians: int = 10_000
    """Gaussians in the scene."""
    width: int = 240
    """Image width in pixels."""
    height: int = 135
    """Image height in pixels."""
    threads: int = 1
    """Threads for both contestants; CPU time counts for one, the clock on the wall for several."""
    repeats: int = 5
    """Runs of which the fastest counts."""
    reference: bool = True
    """Whether to time gsplat's torch reference too."""


def random_scene(count: int, width: int, height: int, scale: float = 1.0) -> Scene:
    """A cloud whose Gaussians shrink as they get more; ``scale`` enlarges them."""
    g = torch.Generator().manual_seed(0)
    spread = torch.tensor([1.2, 0.8, 0.8])
    parameters = {
        "means": torch.randn(count, 3, generator=g) * spread + torch.tensor([0, 0, 4.0]),
        "quats": torch.randn(count, 4, generator=g),
        "scales": torch.exp(torch.randn(count, 3, generator=g) * 0.4 - 3.6) * (1e4 / count) ** (1 / 3) * scale,
        "opacities": torch.sigmoid(torch.randn(count, generator=g) * 1.5),
        "colors": torch.randn(count, (DEGREE + 1) ** 2, 3, generator=g) * 0.2,
    }
    focal = 0.9 * width
    intrinsics = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]])
    camera = {"viewmats": torch.eye(4)[None], "Ks": intrinsics, "width": width, "height": height}
    return Scene({name: value.requires_grad_() for name, value in parameters.items()}, camera)


def render(scene: Scene) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Image, alpha and meta by the CPU rasterizer."""
    return rasterization_cpu(**scene.parameters, **scene.camera, sh_degree=DEGREE, packed=False)


def contributing_pairs(meta: dict[str, Any], width: int, height: int) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Gaussian and pixel of every contribution, sorted by pixel, front to back.

    gsplat lists them with a CUDA kernel, so its torch reference cannot do without something like this on a CPU.
    """
    means2d, conics, opacities = (meta[key][0].detach() for key in ("means2d", "conics", "opacities"))
    bounds = [*meta["isect_offsets"].flatten().tolist(), len(meta["flatten_ids"])]
    gaussians, pixels = [], []
    for tile, (begin, end) in enumerate(pairwise(bounds)):
        ids = meta["flatten_ids"][begin:end].long()
        top, left = 16 * (tile // meta["tile_width"]), 16 * (tile % meta["tile_width"])
        ys, xs = torch.meshgrid(
            torch.arange(top, min(top + 16, height)), torch.arange(left, min(left + 16, width)), indexing="ij"
        )
        seen = (ys * width + xs).reshape(-1, 1)
        alpha = _opacity(means2d[ids], conics[ids], opacities[ids], seen, width)
        alpha = torch.where(alpha >= 1 / 255, alpha, 0)
        pixel, which = torch.where((alpha > 0) & (torch.cumprod(1 - alpha, dim=1) > 1e-4))
        gaussians.append(ids[which])
        pixels.append(seen[pixel, 0])
    pixel = torch.cat(pixels)
    order = torch.argsort(pixel, stable=True)
    return torch.cat(gaussians)[order], pixel[order]


def _opacity(
    means2d: Float[Tensor, "*m 2"],
    conics: Float[Tensor, "*m 3"],
    opacities: Float[Tensor, "*m"],
    pixels: Int[Tensor, "*p"],
    width: int,
) -> Float[Tensor, "*mp"]:
    """``min(o exp(-sigma), 0.999)`` of Gaussians at the centres of pixels, which count row by row."""
    dx, dy = pixels % width + 0.5 - means2d[..., 0], pixels // width + 0.5 - means2d[..., 1]
    sigma = 0.5 * (conics[..., 0] * dx**2 + conics[..., 2] * dy**2) + conics[..., 1] * dx * dy
    return (opacities * torch.exp(-sigma)).clamp(max=0.999)


def render_reference(scene: Scene, pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Image and alpha by gsplat's torch functions, projection and harmonics, composited as its ``accumulate`` does.

    That one takes weights from a CUDA scan of nerfacc; here they are sums of logarithms per pixel.
    """
    from gsplat.cuda import _torch_impl as gsplat_torch

    p, camera = scene.parameters, scene.camera
    size = camera["width"], camera["height"]
    matrices = gsplat_torch._quat_scale_to_matrix(p["quats"], p["scales"])
    covars = matrices @ matrices.transpose(1, 2)
    _, means2d, _, conics, _ = gsplat_torch._fully_fused_projection(
        p["means"], covars, camera["viewmats"], camera["Ks"], *size
    )
    directions = p["means"] - torch.inverse(camera["viewmats"])[0, :3, 3]
    colors = (gsplat_torch._spherical_harmonics(DEGREE, directions, p["colors"]) + 0.5).clamp(min=0)
    gaussian, pixel = pairs
    alphas = _opacity(means2d[0, gaussian], conics[0, gaussian], p["opacities"][gaussian], pixel, size[0])
    weights = alphas * _light(alphas, pixel, size[0] * size[1])
    seen = torch.cat([colors[gaussian], torch.ones_like(weights)[:, None]], dim=1) * weights[:, None]
    picture = seen.new_zeros(size[0] * size[1], 4).index_add(0, pixel, seen).view(1, size[1], size[0], 4)
    return picture[..., :3], picture[..., 3:]


def _light(alphas: Float[Tensor, " m"], pixel: Int[Tensor, " m"], count: int) -> Float[Tensor, " m"]:
    """What is left of the light before each contribution, ``prod (1 - alpha)`` over those in front of it."""
    logs = torch.log1p(-alphas)
    before = torch.cumsum(logs.double(), dim=0) - logs
    counts = torch.bincount(pixel, minlength=count)
    first = (counts.cumsum(0) - counts)[pixel]
    return torch.exp(before - before[first]).float()


def time_rendering(render: Callable[[], tuple[Any, ...]], repeats: int, clock: Clock) -> Timing:
    """Time ``render`` and the backward pass of the image it returns first, after one run to compile."""
    times = []
    for _ in range(repeats + 1):
        start = clock()
        image = render()[0]
        middle = clock()
        image.backward(torch.ones_like(image))
        times.append((middle - start, clock() - middle))
    forward, backward = zip(*times[1:], strict=True)
    return Timing(1e3 * min(forward), 1e3 * min(backward))


def time_call(function: Callable[[], Any], repeats: int, clock: Clock) -> float:
    """The least of several times of a function, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = clock()
        function()
        times.append(clock() - start)
    return 1e3 * min(times)


def peak_memory(scene: Scene) -> tuple[int, int]:
    """Tile hits, and peak bytes of a forward and backward pass beyond the scene itself."""
    tracemalloc.start()
    try:
        image, _, meta = render(scene)
        image.backward(torch.ones_like(image))
        return len(meta["flatten_ids"]), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _timing_line(name: str, timing: Timing, lists: str) -> str:
    times = f"forward {timing.forward:8.1f} ms   backward {timing.backward:8.1f} ms   sum {timing.total:8.1f} ms"
    return f"{name:24s} {times}   {lists}"


def our_lists(scene: Scene) -> Callable[[], Any]:
    """What lists the tiles of the scene's Gaussians, as a rendering does."""
    from harmonizer_ns.raster.projection import ProjectionSettings, project
    from harmonizer_ns.raster.tiles import find_hits

    p, camera = {name: value.detach() for name, value in scene.parameters.items()}, scene.camera
    width, height = camera["width"], camera["height"]
    settings = ProjectionSettings(width, height, 0.3, 0.01, 1e10, 0.0, packed=False)
    projected = project(p["means"], p["quats"], p["scales"], None, camera["viewmats"], camera["Ks"], settings)[:4]
    rows = [part.numpy() for part in (*(part[0] for part in projected), p["opacities"], p["colors"][:, 0].contiguous())]
    tiles = (-(-width // TILE_SIZE), -(-height // TILE_SIZE))
    return lambda: find_hits(rows, [0, len(rows[0])], tiles)


def _compare(bench: RasterBench) -> None:
    """Print both contestants' times for equal work, with and without the lists of what lies where.

    gsplat's torch functions begin with a list of pixel-Gaussian pairs, which is made in torch here, as gsplat makes it
    in CUDA only. The second ratio leaves out the lists of both: that of pairs, and our lists of tiles.
    """
    clock = time.process_time if bench.threads == 1 else time.perf_counter
    scene = random_scene(bench.num_gaussians, bench.width, bench.height)
    ours = time_rendering(lambda: render(scene), bench.repeats, clock)
    lists = time_call(our_lists(scene), bench.repeats, clock)
    print(_timing_line("harmonizer_ns.raster", ours, f"{lists:.1f} ms of it for lists of tiles"))
    if not bench.reference:
        return
    image, _, meta = render(scene)
    pairs = contributing_pairs(meta, bench.width, bench.height)
    listing = time_call(lambda: contributing_pairs(meta, bench.width, bench.height), 2, clock)
    expected, _ = render_reference(scene, pairs)
    theirs = time_rendering(lambda: render_reference(scene, pairs), bench.repeats, clock)
    print(_timing_line("gsplat's torch reference", theirs, f"{listing:.1f} ms more to list {len(pairs[0])} pairs"))
    whole, given = (theirs.total + listing) / ours.total, theirs.total / (ours.total - lists)
    print(f"ratio {whole:.1f}x from Gaussians to gradients, {given:.1f}x without the lists of both")
    print(f"largest difference of the images {float((image - expected).detach().abs().max()):.1e}")


def _tabulate_memory(bench: RasterBench) -> None:
    print(f"\n{'tile hits':>10s} {'peak MiB':>10s} {'bytes/hit':>10s}")
    for scale in (0.5, 1.0, 2.0, 4.0):
        hits, peak = peak_memory(random_scene(bench.num_gaussians, bench.width, bench.height, scale))
        print(f"{hits:10d} {peak / 2**20:10.1f} {peak / max(hits, 1):10.0f}")


def run(bench: RasterBench) -> None:
    """Print times, their ratio and the memory table."""
    torch.set_num_threads(bench.threads)
    set_num_threads(bench.threads)
    print(f"{bench.num_gaussians} Gaussians, {bench.width}x{bench.height}, {bench.threads} thread(s)")
    _compare(bench)
    _tabulate_memory(bench)
