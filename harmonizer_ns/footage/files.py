# SPDX-License-Identifier: Apache-2.0
"""Repair images, folders of images and videos."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import read_json, write_json, written_whole
from harmonizer_ns.footage.sequence import FrameEnhancer, Item, References
from harmonizer_ns.footage.video_parts import VideoParts
from harmonizer_ns.images import beside, load_bytes, load_image, save_image
from harmonizer_ns.media import check_video_output, image_files, media_kind, read_video
from harmonizer_ns.types import as_frames

logger = logging.getLogger(__name__)

_SETTINGS_FILE = ".enhanced.json"
"""In a folder of repaired images: what they were made with."""
Progress = Callable[[int, int], None]
"""Told how many frames are done, of how many."""


def enhance_path(
    source: Path,
    target: Path,
    frames: FrameEnhancer,
    side_by_side: bool = False,
    overwrite: bool = False,
    fps: float | None = None,
    progress: Progress = lambda done, total: None,
    repair: str = "",
) -> int:
    """Repair an image, a folder of images, or a video.

    Images keep their names; those that are there already are not done again. A video appears when it is whole; an
    interrupted run leaves its beginning in a hidden folder beside it, from which the next run goes on.

    Args:
        source: what to repair.
        target: an image for an image; a folder or a video for a folder or a video.
        frames: repairs.
        side_by_side: write input and output beside each other.
        overwrite: do again what is there already.
        fps: frames per second of a written video; by default the source's, or 24.
        progress: told about every frame.
        repair: what the frames are repaired with, in words: a video that was begun with something else begins again.

    Returns:
        The number of frames that were repaired.

    Raises:
        InputError: on input that cannot be read or output that cannot be written; a frame that cannot be read does
            not keep the others from being repaired, and is named at the end.
    """
    check_paths(source, target)
    if fps is not None and not fps > 0:
        raise InputError(f"a video needs a positive number of frames per second, not {fps}")
    if media_kind(target) == "video" and target.exists() and not overwrite:
        return 0
    footage = open_footage(source)
    if media_kind(target) == "video":
        rate = fps or footage.fps
        settings = {"source": _stamp(source), "repair": repair, "fps": rate, "side_by_side": side_by_side}
        output = VideoParts(target, rate, settings, frames.failures, footage.sound)
    else:
        output = ImageFiles(target, overwrite, {"repair": repair, "side_by_side": side_by_side})
    with output:
        done = _write_all(footage, frames, output, side_by_side, progress)
    failures = list(dict.fromkeys(frames.failures))  # those of an interrupted run may come twice
    if failures:
        count = "1 frame was" if len(failures) == 1 else f"{len(failures)} frames were"
        raise InputError(f"{count} left out: " + "; ".join(failures))
    return done


def _write_all(
    footage: Footage, frames: FrameEnhancer, output: VideoParts | ImageFiles, side_by_side: bool, progress: Progress
) -> int:
    """Repair and write what is not there yet; the number of these frames."""
    items = output.marked(footage.items)
    if side_by_side:
        items = map(_right_half, items)
    done = 0
    for item, before, after in frames.run(items):
        output.write(item, beside([before, after]) if side_by_side else after)
        done += 1
        progress(item.number + 1, footage.total)
    return done


def _right_half(item: Item) -> Item:
    """The repaired frame stands at the right of what was written."""
    written = item.repaired
    if written is None:
        return item
    return replace(item, repaired=lambda: written().chunk(2, dim=-1)[1])


@dataclass(frozen=True)
class Footage:
    """What is to be repaired.

    Args:
        items: the frames, in order.
        total: about how many there are.
        fps: frames per second.
        sound: where the sound is.
    """

    items: Iterable[Item]
    total: int
    fps: float = 24.0
    sound: Path | None = None


def open_footage(source: Path) -> Footage:
    """The frames of an image, a folder or a video.

    Raises:
        InputError: when there is nothing that can be read.
    """
    if media_kind(source) == "video":
        info, decoded = read_video(source)
        items = (Item(i, f"{i:06d}.png", lambda frame=frame: frame) for i, frame in enumerate(decoded))
        return Footage(items, info.frames, info.fps, source)
    paths = image_files(source) if source.is_dir() else [source]
    return Footage([Item(i, path.name, partial(load_bytes, path)) for i, path in enumerate(paths)], len(paths))


class ImageFiles:
    """Repaired images, in a folder under the frames' own names, or one in a file.

    Args:
        target: the folder or file.
        overwrite: do again what is there already.
        settings: JSON values; a folder that was begun with others is not mixed with these.
    """

    def __init__(self, target: Path, overwrite: bool, settings: dict[str, Any]) -> None:
        self._target, self._overwrite, self._settings = target, overwrite, settings
        self._is_folder = media_kind(target) == "folder"

    def __enter__(self) -> ImageFiles:
        """Raise `InputError` when the folder holds images that were made with other settings."""
        if self._is_folder:
            made_with = self._target / _SETTINGS_FILE
            if made_with.is_file() and not self._overwrite and (before := read_json(made_with)) != self._settings:
                differ = ", ".join(
                    f"{key} was {before.get(key)}" for key, value in self._settings.items() if before.get(key) != value
                )
                raise InputError(
                    f"{self._target} holds images made with other settings ({differ}); give --overwrite to make them "
                    "again, or another folder"
                )
            write_json(made_with, self._settings)
        return self

    def __exit__(self, *error: object) -> None:
        """Every image is whole as soon as it is there."""

    def marked(self, items: Iterable[Item]) -> Iterator[Item]:
        """The frames; those that are there already are marked."""
        for item in items:
            path = self._path(item)
            there = path.is_file() and not self._overwrite
            yield replace(item, repaired=partial(load_bytes, path)) if there else item

    def write(self, item: Item, picture: Float[Tensor, "3 h w"]) -> None:
        """Write a picture; under its name there is never a part of one.

        Raises:
            InputError: when it cannot be written.
        """
        with written_whole(self._path(item)) as partial_path:
            save_image(partial_path, picture)

    def _path(self, item: Item) -> Path:
        return self._target / item.file if self._is_folder else self._target


def check_paths(source: Path, target: Path) -> None:
    """Refuse what `enhance_path` cannot do.

    Raises:
        InputError: on a missing source, kinds that do not go together, and a target that is the source.
    """
    if not source.exists():
        raise InputError(f"there is no {source}")
    kinds = media_kind(source), media_kind(target)
    if kinds[1] == "video":
        check_video_output(target)
    if "image" in kinds and kinds != ("image", "image"):
        raise InputError(f"cannot write the {kinds[0]} {source} as the {kinds[1]} {target}")
    if target.exists() and target.resolve() == source.resolve():
        raise InputError(f"{target} is the input; give the output another name")


def find_references(paths: tuple[Path, ...], names: Collection[str] | None = None) -> References:
    """How reference photos are found for frames.

    Args:
        paths: files are for every frame. One folder holds a photo for each frame: of the same name but for the
            extension, or when no name fits, at the same place in the order. A frame without a photo gets none.
        names: of all frames, without extensions; how many have no photo is logged. None: photos go by name only.

    Raises:
        InputError: on what is not there or cannot be read, and on files of several sizes.
    """
    if not paths:
        return lambda number, name: None
    if len(paths) == 1 and paths[0].is_dir():
        return _references_in(paths[0], names)
    photos = [load_image(path) for path in paths]
    sizes = {f"{photo.shape[-1]}x{photo.shape[-2]}" for photo in photos}
    if len(sizes) > 1:
        raise InputError(f"reference photos should have one size, these have {', '.join(sorted(sizes))}")
    everywhere = as_frames(torch.stack(photos))
    return lambda number, name: everywhere


def _references_in(folder: Path, names: Collection[str] | None) -> References:
    files = image_files(folder)
    by_name = {file.stem: file for file in files}
    if names is not None and not by_name.keys() & set(names):
        logger.warning("no frame has a photo of its name in %s; photos are taken in order", folder)
        return lambda number, name: as_frames(load_image(files[number])) if number < len(files) else None
    missing = [name for name in names or () if name not in by_name]
    if missing:
        logger.warning(
            "%d of %d frames, such as %s, have no photo of their name in %s and are repaired without one",
            len(missing),
            len(names or ()),
            missing[0],
            folder,
        )
    return lambda number, name: as_frames(load_image(by_name[name])) if name in by_name else None


def frame_names(source: Path) -> list[str]:
    """Name the frames of a folder of images (or of one image), without extensions; a video's frames have no names."""
    if media_kind(source) == "video":
        return []
    return [path.stem for path in (image_files(source) if source.is_dir() else [source])]


def _stamp(source: Path) -> str:
    """Another one when a video or a folder's images have changed."""
    files = image_files(source) if source.is_dir() else [source]
    facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()
