# SPDX-License-Identifier: Apache-2.0
"""A browser's part of viser's conversation without a browser: looks, counts pictures, and can move."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Any

IS_VISER_1 = int(version("viser").partition(".")[0]) >= 1
SHAPE: dict[str, float] = (
    {"near": 0.01, "far": 100.0, "image_width": 1600, "image_height": 900} if IS_VISER_1 else {"aspect": 16 / 9}
)
"""What a message about a camera holds besides its place and angle."""


def _messages(received: bytes) -> list[dict[str, Any]]:
    """What a server sent at once; viser 1 compresses it, behind two lengths of 8 bytes."""
    import msgspec

    if not IS_VISER_1:
        return msgspec.msgpack.decode(received)
    import zstandard

    content = received[16 : 16 + int.from_bytes(received[8:16], "little")]
    return msgspec.msgpack.decode(zstandard.decompress(content))["messages"]


class Watcher:
    """Connected while the block runs.

    Args:
        port: of a viser server on this machine.
    """

    def __init__(self, port: int) -> None:
        from websockets.sync.client import connect
        from websockets.typing import Origin, Subprotocol

        self.pictures: list[bytes] = []
        page = f"127.0.0.1:{port}"
        options: dict[str, Any] = {"subprotocols": [Subprotocol(f"viser-v{version('viser')}")]} if IS_VISER_1 else {}
        self._socket = connect(
            f"ws://{page}", origin=Origin(f"http://{page}"), max_size=None, proxy=None, open_timeout=20, **options
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
            "look_at": (0.0, 0.0, 1.0),
            "up_direction": (0.0, -1.0, 0.0),
            **SHAPE,
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
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                for item in _messages(bytes(self._socket.recv(decode=False))):
                    if item["type"] == "BackgroundImageMessage":
                        self.pictures.append(item["rgb_data" if IS_VISER_1 else "rgb_bytes"])
        except ConnectionClosed:
            return  # either side may end it
