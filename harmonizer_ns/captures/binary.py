# SPDX-License-Identifier: Apache-2.0
"""Check COLMAP's binary files before pycolmap reads them: a damaged count keeps it busy for ever."""

from __future__ import annotations

import struct
from pathlib import Path

from harmonizer_ns.errors import InputError


class _Reader:
    """Walks through a file without unpacking what it skips."""

    def __init__(self, file: Path) -> None:
        self._data, self._at = file.read_bytes(), 0

    def number(self, form: str) -> int:
        """Read one little-endian number."""
        (value,) = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(form)
        return value

    def skip(self, count: int) -> None:
        """Pass over bytes."""
        self._at += count
        if self._at > len(self._data):
            raise EOFError

    def skip_text(self) -> None:
        """Pass over a text that ends with a zero byte."""
        self._at = self._data.index(b"\0", self._at) + 1

    @property
    def left(self) -> int:
        """How many bytes there still are."""
        return len(self._data) - self._at


def check_binary_model(folder: Path) -> None:
    """Walk through the binary files of a model, as COLMAP 3.x and 4.x lay them out.

    Raises:
        InputError: naming the file whose counts do not fit its length.
    """
    walks = {"images": _walk_image, "points3D": _walk_point, "rigs": _walk_rig, "frames": _walk_frame}
    for part, walk in walks.items():
        file = folder / f"{part}.bin"
        if not file.is_file():
            continue
        reader = _Reader(file)
        try:
            count = reader.number("Q")
            if count > reader.left:
                raise EOFError
            for _ in range(count):
                walk(reader)
        except (EOFError, ValueError, struct.error) as error:
            raise InputError(f"{file} is damaged: it is shorter than its counts say") from error
        if reader.left:
            raise InputError(f"{file} is damaged: {reader.left} bytes follow what its counts say")


def _walk_image(reader: _Reader) -> None:
    reader.skip(4 + 7 * 8 + 4)  # id, rotation and translation, camera
    reader.skip_text()
    reader.skip(reader.number("Q") * 24)  # keypoints: x, y and the id of a point


def _walk_point(reader: _Reader) -> None:
    reader.skip(8 + 3 * 8 + 3 + 8)  # id, position, colour, error
    reader.skip(reader.number("Q") * 8)  # track: image and keypoint


def _walk_rig(reader: _Reader) -> None:
    reader.skip(4)
    sensors = reader.number("I")
    if sensors:
        reader.skip(8)  # the sensor that the others are posed against
    for _ in range(sensors - 1):
        reader.skip(8)
        if reader.number("B"):
            reader.skip(7 * 8)


def _walk_frame(reader: _Reader) -> None:
    reader.skip(4 + 4 + 7 * 8)  # id, rig, pose
    reader.skip(reader.number("I") * 16)  # sensor type and id, image
