# SPDX-License-Identifier: Apache-2.0
"""Repair images, folders of images and videos."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import written_whole
from harmonizer_ns.footage.sequence import FrameEnhancer, Item, References
from harmonizer_ns.footage.video_parts import VideoParts
from harmonizer_ns.images import beside, load_image, save_image
from harmonizer_ns.media import check_video_output, image_files, media_kind, read_video
from harmonizer_ns.types import Frames, as_frames

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
    if media_kind(target) != "video":
        done = _to_images(open_footage(source), target, frames, side_by_side, overwrite, progress)
    elif target.exists() and not overwrite:
        done = 0
    else:
        settings = {"source": _stamp(source), "repair": repair}
        done = _to_video(open_footage(source), target, frames, side_by_side, fps, settings, progress)
    failures = list(dict.fromkeys(frames.failures))  # those of an interrupted run may come twice
    if failures:
        count = "1 frame was" if len(failures) == 1 else f"{len(failures)} frames were"
        raise InputError(f"{count} left out: " + "; ".join(failures))
    return done


def _to_images(
    footage: Footage, target: Path, frames: FrameEnhancer, side_by_side: bool, overwrite: bool, progress: Progress
) -> int:
    folder = ImageFolder(target if media_kind(target) == "folder" else target.parent, side_by_side)
    items = footage.items
    if media_kind(target) == "image":
        items = (replace(item, file=target.name) for item in items)
    if not overwrite:
        items = map(folder.mark, items)
    return _drain(items, footage.total, frames, folder.write, side_by_side, progress)


def _to_video(
    footage: Footage,
    target: Path,
    frames: FrameEnhancer,
    side_by_side: bool,
    fps: float | None,
    settings: dict[str, Any],
    progress: Progress,
) -> int:
    fps = fps or footage.fps
    settings = {**settings, "fps": fps, "side_by_side": side_by_side}
    with VideoParts(target, fps, settings, frames.failures, side_by_side) as video:
        items = video.remaining(footage.items)
        done = _drain(items, footage.total, frames, video.write, side_by_side, progress)
        video.join(footage.sound)
    return done


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
        items = (Item(i, f"{i:06d}.png", partial(_identity, frame)) for i, frame in enumerate(decoded))
        return Footage(items, info.frames, info.fps, source)
    paths = image_files(source) if source.is_dir() else [source]
    return Footage([Item(i, path.name, partial(load_image, path)) for i, path in enumerate(paths)], len(paths))


@dataclass(frozen=True)
class ImageFolder:
    """Where repaired images go.

    Args:
        path: the folder.
        side_by_side: whether the input stands at the left in the files.
    """

    path: Path
    side_by_side: bool

    def mark(self, item: Item) -> Item:
        """The item, with what is there already."""
        path = self.path / item.file
        return replace(item, repaired=partial(self._read, path)) if path.is_file() else item

    def write(self, item: Item, picture: Float[Tensor, "3 h w"]) -> None:
        """Write a picture; under its name there is never a part of one.

        Raises:
            InputError: when it cannot be written.
        """
        with written_whole(self.path / item.file) as partial_path:
            save_image(partial_path, picture)

    def _read(self, path: Path) -> Float[Tensor, "3 h w"]:
        picture = load_image(path)
        return picture[..., picture.shape[-1] // 2 :] if self.side_by_side else picture


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


def find_references(paths: tuple[Path, ...]) -> References:
    """How reference photos are found for frames.

    Args:
        paths: files are for every frame. One folder holds a photo for each frame: of the same name but for the
            extension, or when no name fits, at the same place in the order.

    Raises:
        InputError: on what is not there or cannot be read, and on files of several sizes.
    """
    if not paths:
        return lambda number, name: None
    if len(paths) == 1 and paths[0].is_dir():
        files = image_files(paths[0])
        return partial(_one_of, files, {file.stem: file for file in files})
    photos = [load_image(path) for path in paths]
    sizes = {f"{photo.shape[-1]}x{photo.shape[-2]}" for photo in photos}
    if len(sizes) > 1:
        raise InputError(f"reference photos should have one size, these have {', '.join(sorted(sizes))}")
    everywhere = as_frames(torch.stack(photos))
    return lambda number, name: everywhere


def _one_of(files: list[Path], by_name: dict[str, Path], number: int, name: str) -> Frames | None:
    path = by_name.get(name) or (files[number] if number < len(files) else None)
    return as_frames(load_image(path)) if path else None


def _stamp(source: Path) -> str:
    """Another one when a video or a folder's images have changed."""
    files = image_files(source) if source.is_dir() else [source]
    facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _drain(
    items: Iterable[Item],
    total: int,
    frames: FrameEnhancer,
    write: Callable[[Item, Tensor], None],
    side_by_side: bool,
    progress: Progress,
) -> int:
    done = 0
    for item, before, after in frames.run(items):
        write(item, beside([before, after]) if side_by_side else after)
        done += 1
        progress(item.number + 1, total)
    return done


def _identity(frame: Tensor) -> Tensor:
    return frame
