# SPDX-License-Identifier: Apache-2.0
"""`photo_geometry` finds depth maps and seed points of a capture's photos once, and keeps them for the next run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.errors import InputError, damage_of
from harmonizer_ns.files import content_digest, locked, read_weights, remove_leftovers, written_whole
from harmonizer_ns.progress import Counts, duration, listening
from harmonizer_ns.stereo.depth import DepthMap, estimate_depth
from harmonizer_ns.stereo.fusion import Seeds, fuse
from harmonizer_ns.stereo.matching import decided
from harmonizer_ns.stereo.settings import StereoSettings
from harmonizer_ns.stereo.tracks import find_tracks
from harmonizer_ns.types import Cameras

FOLDER = "geometry"
"""Where results are kept."""
_FORMAT = 5
"""Grows whenever the same photos give something else."""
_CHECKSUM = "checksum"


@dataclass(frozen=True)
class Geometry:
    """Holds what a capture's photos say of its surfaces.

    Args:
        maps: one for each photo to learn from (of all photos without a split), in the capture's order.
        seeds: those that the photos give; the capture's own points are not among them.
    """

    maps: list[DepthMap]
    seeds: Seeds


def photo_geometry(
    capture: Capture,
    folder: Path,
    settings: StereoSettings = StereoSettings(),
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = print,
) -> Geometry:
    """Read what was found before from ``folder/geometry``, or look for it and keep it there.

    Files are named by a digest of all that the result depends on: photos to learn from, their masks and cameras, seed
    points, settings. Runs that begin together look once: the others wait, and then read. What cannot be read, written
    or locked is told; the run goes on without.

    Args:
        capture: held-out photos of it are not looked at.
        folder: of the result, or one that several runs share.
        settings: how to look, and what to believe.
        device: where to look.
        say: told how far it is.

    Raises:
        InputError: when photos are to be matched by what is not installed.
    """
    photos = capture.part(capture.train or range(len(capture))).to("cpu")
    settings = decided(settings, len(photos))
    path = folder / FOLDER / f"{_digest(photos, settings)}.safetensors"
    kept = _kept(path, photos.cameras, lambda _: None)
    if kept is not None:
        return kept
    with _in_turn(path, say):
        return _kept(path, photos.cameras, say) or _look(photos, path, settings, device, say)


def _kept(path: Path, cameras: Sequence[Cameras], say: Callable[[str], None]) -> Geometry | None:
    try:
        return read_geometry(path, cameras) if path.is_file() else None
    except (InputError, OSError) as error:
        say(f"{error}; looking at the photos again")
        return None


@contextmanager
def _in_turn(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Of runs that need the same file one makes it and the others wait; where no lock can be had, all go on."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(path.parent / f".{path.stem[:40]}.partial", wait=say))
        except (InputError, OSError) as error:
            say(f"{error}. Going on; another run may look at the same photos")
        yield
    remove_leftovers(path.parent)


def _look(
    photos: Capture, path: Path, settings: StereoSettings, device: torch.device | str, say: Callable[[str], None]
) -> Geometry:
    """Look at the photos, and keep what they give."""
    say(f"Looking for depth in {len(photos)} photos")
    start = time.monotonic()
    with listening(Counts(say, "Depth")):
        geometry = look_at(photos, settings, device)
    say(f"The photos give {len(geometry.seeds):,} seed points; looking took {duration(time.monotonic() - start)}")
    try:
        with written_whole(path, "Going on; another run will have to look again") as partial:
            save_file(_tensors(geometry), partial)
    except (InputError, OSError) as error:
        say(str(error))
    return geometry


def look_at(photos: Capture, settings: StereoSettings, device: torch.device | str = "cpu") -> Geometry:
    """Find what all photos of a capture give; nothing is kept.

    Raises:
        InputError: when they are to be matched by what is not installed.
    """
    settings = decided(settings, len(photos))
    maps = estimate_depth(photos, settings, range(len(photos)), device)
    beyond = find_tracks(photos, settings, device).seeds_beyond(maps, settings.confidence)
    return Geometry(maps, fuse(photos, maps, settings) + beyond)


def _digest(photos: Capture, settings: StereoSettings) -> str:
    order = sorted(range(len(photos)), key=lambda i: photos.names[i])
    parts: list[Tensor | str] = [repr((_FORMAT, settings, order, tuple(photos.points.shape)))]
    for i, camera in enumerate(photos.cameras):
        mask, seen = photos.mask(i), photos.seen
        shown = torch.zeros(0) if seen is None else seen[i]
        parts += [repr((camera.width, camera.height, mask is None, seen is None, len(shown))), photos.photo(i)]
        parts += [camera.camera_to_world, camera.intrinsics, shown, *([] if mask is None else [mask])]
    return content_digest([*parts, photos.points])


def _tensors(geometry: Geometry) -> dict[str, Tensor]:
    """Name all of it; of depth and confidence only known pixels are kept."""
    seeds = geometry.seeds
    tensors = {"points": seeds.points, "colors": seeds.colors, "normals": seeds.normals}
    for i, found in enumerate(geometry.maps):
        known = found.depth > 0
        witnesses = torch.tensor(found.witnesses, dtype=torch.int32)
        tensors |= {f"known.{i}": known, f"depth.{i}": found.depth[known], f"confidence.{i}": found.confidence[known]}
        tensors[f"witnesses.{i}"] = witnesses
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    return {**tensors, _CHECKSUM: _checksum(tensors)}


def _checksum(tensors: Mapping[str, Tensor]) -> Tensor:
    named = [part for name in sorted(tensors) for part in (f"{name} {tuple(tensors[name].shape)}", tensors[name])]
    return torch.tensor(list(bytes.fromhex(content_digest(named))), dtype=torch.uint8)


def read_geometry(path: Path, cameras: Sequence[Cameras]) -> Geometry:
    """Read what was kept for photos that these cameras took.

    Raises:
        InputError: when the file is missing or damaged.
    """
    tensors = read_weights(path)
    with damage_of(path):
        kept = tensors.pop(_CHECKSUM)
        if not torch.equal(kept, _checksum(tensors)):
            raise InputError("some of its bytes have changed")
        maps = []
        for i, camera in enumerate(cameras):
            known = tensors[f"known.{i}"]
            depth, confidence = (torch.zeros(known.shape) for _ in range(2))
            depth[known], confidence[known] = tensors[f"depth.{i}"], tensors[f"confidence.{i}"]
            size = known.shape[1], known.shape[0]
            maps.append(DepthMap(depth, confidence, camera.resized(*size), tuple(tensors[f"witnesses.{i}"].tolist())))
        return Geometry(maps, Seeds(tensors["points"], tensors["colors"], tensors["normals"]))
