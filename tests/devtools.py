# SPDX-License-Identifier: Apache-2.0
"""Drive headless Chromium through its DevTools protocol; nothing but a websocket is needed."""

import base64
import io
import itertools
import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CHROMIUM = Path("/usr/bin/chromium")
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=900,600",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
]


class Page:
    """One tab."""

    def __init__(self, address: str) -> None:
        from websockets.sync.client import connect

        self._socket = connect(address, max_size=None, proxy=None)
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self.call("Page.enable")
        self.call("Runtime.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events in between are kept."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, file: Path) -> np.ndarray:
        """The page as ``h w 3``; also written to a file."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        file.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def click_label(self, text: str) -> None:
        """Click the control with that label."""
        found = self.evaluate(
            "(() => { const at = [...document.querySelectorAll('label')]"
            f".find(e => e.textContent.trim() === {json.dumps(text)});"
            "if (!at) return false; (document.getElementById(at.htmlFor) || at).click(); return true; })()"
        )
        assert found, f"no label {text!r} on the page: {self.evaluate('document.body.innerText')[:500]}"

    def press(self, key: str) -> None:
        """Press a key, such as ``ArrowRight``, and let it go."""
        code = {"Tab": 9, "ArrowLeft": 37, "ArrowRight": 39}[key]
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Drag with the left button, in ten moves."""
        self._mouse("mousePressed", *start, buttons=1)
        for i in range(1, 11):
            x, y = (round(a + (b - a) * i / 10) for a, b in zip(start, end, strict=True))
            self._mouse("mouseMoved", x, y, buttons=1)
            time.sleep(0.02)
        self._mouse("mouseReleased", *end, buttons=0)

    def _mouse(self, kind: str, x: int, y: int, buttons: int) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def open_page(url: str, folder: Path) -> Iterator[Page]:
    """A page in a new browser with a profile of its own; the browser ends with the block."""
    with (folder / "chromium.log").open("w") as log:
        command = [str(CHROMIUM), *_FLAGS, f"--user-data-dir={folder / 'profile'}", url]
        browser = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            port = wait_for(lambda: re.search(r"127\.0\.0\.1:(\d+)/", (folder / "chromium.log").read_text()), 30)
            page = Page(_page_address(int(port.group(1))))
            try:
                yield page
            finally:
                page.close()
        finally:
            browser.terminate()
            browser.wait(10)


def _page_address(port: int) -> str:
    from urllib.request import ProxyHandler, build_opener

    opener = build_opener(ProxyHandler({}))

    def address() -> str | None:
        targets = json.loads(opener.open(f"http://127.0.0.1:{port}/json", timeout=10).read())
        return next((item["webSocketDebuggerUrl"] for item in targets if item["type"] == "page"), None)

    return wait_for(address, 20)


def free_port() -> int:
    """A port on which nobody listens (viser does not choose one itself)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true value of a condition."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"{condition} stayed false for {seconds} seconds")
