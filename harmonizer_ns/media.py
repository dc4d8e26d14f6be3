# SPDX-License-Identifier: Apache-2.0
"""Folders of images, and videos: finding, reading and writing them. ffmpeg comes with ``imageio-ffmpeg``."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import written_whole
from harmonizer_ns.images import to_pixels

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm")
WRITABLE_VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
_NTSC_RATES = (24, 30, 48, 60, 120)


def media_kind(path: Path) -> Literal["image", "video", "folder"]:
    """What a path stands for, by its extension; without one it is a folder.

    Raises:
        InputError: on an extension that is neither an image's nor a video's.
    """
    suffix = path.suffix.lower()
    if path.is_dir() or not suffix:
        return "folder"
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    raise InputError(f"{path}: {suffix} is neither an image's extension ({', '.join(IMAGE_SUFFIXES)}) nor a video's")


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order: ``frame_2`` before ``frame_10``.

    Raises:
        InputError: when there are none, or no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    found = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if not found:
        raise InputError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return sorted(found, key=lambda path: natural_key(path.name))


def natural_key(name: str) -> list[tuple[int, str]]:
    """A sort key that counts: ``frame_2`` comes before ``frame_10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


class VideoInfo(NamedTuple):
    """What a video's header says: its upright size in pixels, its frames per second, and about how many there are."""

    width: int
    height: int
    fps: float
    frames: int


def read_video(path: Path) -> tuple[VideoInfo, Iterator[UInt8[Tensor, "3 h w"]]]:
    """A video's header, and its frames one by one.

    Raises:
        InputError: when it cannot be read, at once or where it breaks off.
    """
    from imageio_ffmpeg import read_frames

    if not path.is_file():
        raise InputError(f"there is no video {path}")
    reader = read_frames(str(path))
    try:
        meta: dict[str, Any] = next(reader)  # type: ignore[assignment]
        (width, height), fps = meta["size"], _exact_rate(float(meta["fps"]))
    except (OSError, RuntimeError, KeyError, StopIteration, IndexError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a video") from error
    if not (fps > 0 and width and height):
        raise InputError(f"{path} cannot be read as a video: {width}x{height} at {fps} frames per second")
    info = VideoInfo(width, height, fps, max(1, round(fps * meta.get("duration", 0))))
    return info, _frames(path, reader, info)


def _exact_rate(fps: float) -> float:
    """ffmpeg prints rates with two digits, which would let the sound of a long film drift away."""
    exact = min((rate * 1000 / 1001 for rate in _NTSC_RATES), key=lambda rate: abs(rate - fps))
    return exact if abs(exact - fps) < 0.005 else fps


def _frames(path: Path, reader: Iterator[Any], info: VideoInfo) -> Iterator[UInt8[Tensor, "3 h w"]]:
    count = 0
    try:
        for data in reader:
            pixels = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(info.height, info.width, 3)
            yield pixels.permute(2, 0, 1).contiguous()
            count += 1
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} breaks off after {count} frames") from error
    if not count:
        raise InputError(f"{path} holds no frames that can be read")


@contextmanager
def written_video(path: Path, fps: float, joinable: bool = False) -> Iterator[VideoWriter]:
    """Write a video; it appears under its name when it is whole, and not at all after an exception.

    Args:
        path: ``.mp4``, ``.m4v``, ``.mov`` or ``.mkv``; H.264.
        fps: frames per second.
        joinable: whether it is a part for `join_videos`; files are slightly larger then.

    Raises:
        InputError: when the extension is another, the folder cannot be written to, or there are no frames.
    """
    check_video_output(path)
    with written_whole(path) as partial, tempfile.TemporaryFile() as errors:
        partial.touch()
        writer = VideoWriter(path, partial, fps, joinable, errors)
        try:
            yield writer
            writer.finish()
        finally:
            writer.stop()


class VideoWriter:
    """Codes the frames of a video, see `written_video`.

    Args:
        path: what the video will be called.
        partial: what it is called until it is whole.
        fps: frames per second.
        joinable: whether it is a part of a video.
        errors: takes what ffmpeg complains about.
    """

    def __init__(self, path: Path, partial: Path, fps: float, joinable: bool, errors: IO[bytes]) -> None:
        self._path, self._partial, self._fps, self._joinable, self._errors = path, partial, fps, joinable, errors
        self._process: subprocess.Popen[bytes] | None = None
        self._size = (0, 0)

    def write(self, frame: Float[Tensor, "3 h w"]) -> None:
        """Add a frame in [0, 1]; all have the size of the first.

        Raises:
            InputError: on another size, and when ffmpeg gives up, for example on a full disk.
        """
        height, width = frame.shape[-2:]
        if self._process is None:
            self._process, self._size = self._start(height, width), (width, height)
        check_same_size(self._path, self._size, (width, height))
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(to_pixels(frame).tobytes())
        except BrokenPipeError as error:
            raise InputError(f"{self._path} cannot be written: {self._complaint()}") from error

    def finish(self) -> None:
        """Let ffmpeg end the file."""
        if self._process is None:
            raise InputError(f"{self._path} cannot be written: it has no frames")
        try:
            self._process.communicate()
        except BrokenPipeError:
            self._process.wait()
        if self._process.returncode:
            raise InputError(f"{self._path} cannot be written: {self._complaint()}")

    def stop(self) -> None:
        """End ffmpeg if it is still at work."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _start(self, height: int, width: int) -> subprocess.Popen[bytes]:
        from imageio_ffmpeg import get_ffmpeg_exe

        even = height % 2 == 0 and width % 2 == 0
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{self._fps}", "-i", "-"]
        video = ["-c:v", "libx264", "-crf", "16", "-preset", "medium", "-vf", "scale=out_color_matrix=bt709"]
        video += ["-bf", "0"] if self._joinable else []  # frames out of order lose their times where videos are joined
        pixels = ["-pix_fmt", "yuv420p" if even else "yuv444p", "-colorspace", "bt709"]  # 4:2:0 halves both sides
        target = ["-movflags", "+faststart", "-y", str(self._partial)]
        command = [get_ffmpeg_exe(), "-v", "error", *source, *video, *pixels, *target]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._errors)

    def _complaint(self) -> str:
        self._errors.seek(0)
        return _last_line(self._errors.read())


def join_videos(parts: list[Path], path: Path, sound_from: Path | None = None) -> None:
    """Put videos of one size and rate one behind the other; nothing is coded anew.

    Args:
        parts: written by `written_video`, joinable.
        path: of the whole, which appears when it is complete.
        sound_from: a file whose sound, if it has any, is taken over.

    Raises:
        InputError: when the whole cannot be written.
    """
    from imageio_ffmpeg import get_ffmpeg_exe

    names = [str(part.resolve()).replace("'", r"'\''") for part in parts]
    listed = "".join(f"file '{name}'\n" for name in names)
    sound = [] if sound_from is None else ["-i", str(sound_from), "-map", "0:v:0", "-map", "1:a?"]
    copied = sound_from is not None and sound_from.suffix.lower() == path.suffix.lower()
    with written_whole(path) as whole, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "parts.txt").write_text(listed, encoding="utf8")
        source = ["-f", "concat", "-safe", "0", "-i", f"{folder}/parts.txt"]
        target = ["-c:v", "copy", "-c:a", "copy" if copied else "aac", "-movflags", "+faststart", "-y", str(whole)]
        command = [get_ffmpeg_exe(), "-v", "error", *source, *sound, *target]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            raise InputError(f"{path} cannot be written: {_last_line(done.stderr)}")


def check_same_size(path: Path, first: Sequence[int], size: Sequence[int]) -> None:
    """Refuse frames of another size than a video's first.

    Args:
        path: of the video.
        first: width and height.
        size: likewise.

    Raises:
        InputError: telling both.
    """
    if tuple(first) != tuple(size):
        raise InputError(
            f"{path}: frames of one video have one size, it begins with {first[0]}x{first[1]} and goes on with "
            f"{size[0]}x{size[1]}"
        )


def _last_line(errors: bytes) -> str:
    lines = errors.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "ffmpeg ended without a word"


def check_video_output(path: Path) -> None:
    """Refuse extensions that cannot be written.

    Raises:
        InputError: naming those that can.
    """
    if path.suffix.lower() not in WRITABLE_VIDEO_SUFFIXES:
        raise InputError(f"{path}: videos are written as {', '.join(WRITABLE_VIDEO_SUFFIXES)}")
