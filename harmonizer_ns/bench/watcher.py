# SPDX-License-Identifier: Apache-2.0
"""A browser's part of viser's conversation without a browser: looks, counts pictures, and can move."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType


class Watcher:
    """Connected while the block runs.

    Args:
        port: of a viser server on this machine.
    """

    def __init__(self, port: int) -> None:
        from websockets.sync.client import connect
        from websockets.typing import Origin

        self.pictures: list[bytes] = []
        page = f"127.0.0.1:{port}"
        self._socket = connect(
            f"ws://{page}", origin=Origin(f"http://{page}"), max_size=None, proxy=None, open_timeout=20
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        self.look((0.0, 0.0, 0.0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._thread.join(5)

    def look(self, position: Sequence[float]) -> None:
        """Say where the camera is, as a browser does when it moves."""
        import msgspec

        message = {
            "type": "ViewerCameraMessage",
            "wxyz": (1.0, 0.0, 0.0, 0.0),
            "position": tuple(position),
            "fov": 1.0,
            "aspect": 16 / 9,
            "look_at": (0.0, 0.0, 1.0),
            "up_direction": (0.0, -1.0, 0.0),
        }
        self._socket.send(msgspec.msgpack.encode(message))

    def wait_for(self, count: int, seconds: float = 30.0) -> None:
        """Until so many pictures have come in all.

        Raises:
            TimeoutError: when they do not.
        """
        deadline = time.monotonic() + seconds
        while len(self.pictures) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.pictures)} pictures in {seconds} seconds, {count} wanted")
            time.sleep(0.05)

    def _listen(self) -> None:
        import msgspec
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                for item in msgspec.msgpack.decode(bytes(self._socket.recv(decode=False))):
                    if item["type"] == "BackgroundImageMessage":
                        self.pictures.append(item["rgb_bytes"])
        except ConnectionClosed:
            return  # either side may end it
