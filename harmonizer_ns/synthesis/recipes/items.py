# SPDX-License-Identifier: Apache-2.0
"""An item is made as a folder of images and ``item.json``, which appears whole or not at all; and is read back."""

from __future__ import annotations

import dataclasses
import errno
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harmonizer_ns.captures.capture import load_capture, pose_files, read_views
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import written_whole
from harmonizer_ns.pairs import Pair, read_pairs
from harmonizer_ns.progress import Counts, listening
from harmonizer_ns.strict_dataclasses import build
from harmonizer_ns.synthesis.recipes.frames import FrameWriter
from harmonizer_ns.synthesis.recipes.plan import PlannedItem
from harmonizer_ns.synthesis.recipes.sources import Contents, source_files
from harmonizer_ns.synthesis.streams.base import load_clip
from harmonizer_ns.synthesis.streams.curation import SPLATS, Reconstructors
from harmonizer_ns.synthesis.streams.table import STREAMS
from harmonizer_ns.types import Cameras, cat_cameras

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class ItemOutcome:
    """An outcome says how the making of an item ended.

    Args:
        name: of the item.
        problem: one line, "" when it was made.
        log: the traceback of what should not have happened.
    """

    name: str
    problem: str = ""
    log: str = ""


def make_item(
    item: PlannedItem, output: Path, reconstructors: Reconstructors = SPLATS, say: Callable[[str], None] = print
) -> ItemOutcome:
    """Make an item below ``output``, in place of what is there.

    Args:
        item: what to make.
        output: the folder of all items.
        reconstructors: what streams may fit captures with; its functions can be pickled.
        say: told now and then how far a long item is; can be pickled.

    Raises:
        InputError: when the disk is full: nothing else can be made either.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums do not depend on the machine's cores
    try:
        with listening(Counts(say, item.name)), written_whole(output / item.name) as folder:
            _write(item, folder, reconstructors)
    except InputError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL:
            raise InputError(
                f"the disk of {output} is full; what is finished stays: make room, then run the same command again"
            ) from error
        return ItemOutcome(item.name, f"{item.name}: {error}")
    except Exception as error:
        problem = f"{item.name}: {type(error).__name__}: {error} (traceback in errors.log)"
        return ItemOutcome(item.name, problem, f"{item.name}\n{traceback.format_exc()}")
    finally:
        torch.set_num_threads(threads)
    return ItemOutcome(item.name)


def _write(item: PlannedItem, folder: Path, reconstructors: Reconstructors) -> None:
    folder.mkdir()
    stream, writer = STREAMS[item.kind], FrameWriter(folder, item)
    settings = build(stream.settings, item.settings, f"{item.name}: settings")
    more = (reconstructors,) if stream.reconstructs else ()
    for made in stream.make(_source(item), settings, item.seed, *more):
        writer.write(made)
    writer.finish()


def _source(item: PlannedItem) -> Any:
    """Load what the item's stream takes."""
    source = STREAMS[item.kind].source
    if source == "nothing":
        return None
    if source == "clip":
        folder = Path(item.folder)
        clip = load_clip(tuple(folder / file for file in item.files), item.width)
        return dataclasses.replace(clip, cameras=_cameras(folder, item.files, *clip.frames.shape[-2:]))
    return load_capture(item.folder, item.width)


def _cameras(folder: Path, files: tuple[str, ...], height: int, width: int) -> Cameras | None:
    """Read the cameras of a clip, where the scene has good ones of undistorted photos; the plan tells of the others."""
    if not pose_files(folder):
        return None
    try:
        cameras = read_views(folder).cameras()
    except InputError:
        return None
    found = [cameras[file].resized(width, height) for file in files if file in cameras]
    return cat_cameras(found) if len(found) == len(files) else None


class MadePair(NamedTuple):
    """A pair is there, with the PSNR of its image against its target in dB; None: they are equal."""

    pair: Pair
    psnr: float | None


def read_item(item: PlannedItem, output: Path) -> list[MadePair] | None:
    """Read the pairs of the very same item; None when it is not there with all of its files."""
    known, found = provenance(item, output), []
    try:
        for pair in read_pairs(output / item.name / "item.json").train:
            own = pair.source if isinstance(pair.source, dict) else {}
            files = (pair.image, pair.target_image, *pair.references, pair.mask, pair.depth)
            if own.get("digest") != item.digest or not all(file.is_file() for file in files if file):
                return None
            source = {**known, "file": own["file"], "parameters": own["parameters"]}
            found.append(MadePair(dataclasses.replace(pair, source=source), own["psnr"]))
    except InputError:
        return None
    return found


def provenance(item: PlannedItem, output: Path) -> dict[str, Any]:
    """Tell all that makes the item again; the scene's folder is relative to the output folder."""
    folder = Path(os.path.relpath(item.folder, output)).as_posix() if item.folder else ""
    return {**dataclasses.asdict(item), "files": list(item.files), "folder": folder}


def item_of(pair: Pair, output: Path) -> PlannedItem:
    """Find the item that a pair was part of, from its provenance alone.

    Raises:
        InputError: when the provenance is incomplete, or the source files have changed since.
    """
    source = pair.source if isinstance(pair.source, dict) else {}
    names = [field.name for field in dataclasses.fields(PlannedItem)]
    if missing := [name for name in names if name not in source]:
        raise InputError(f"{pair.name} has no provenance to rebuild it from: {', '.join(missing)} missing")
    item = build(PlannedItem, {name: source[name] for name in names}, f"{pair.name}: provenance")
    if item.kind not in STREAMS or (output / item.name).resolve().parent.parent != output.resolve():
        raise InputError(f"{pair.name} has no good provenance: kind {item.kind!r}, name {item.name!r}")
    if not item.folder:
        return item
    folder = (output / item.folder).resolve()
    files = source_files(STREAMS[item.kind].source, folder, item.files, item.settings)
    if Contents().of_all(folder, files) != item.content:
        raise InputError(f"{pair.name} cannot be rebuilt: files of {folder} have changed since it was made")
    return dataclasses.replace(item, folder=str(folder))
