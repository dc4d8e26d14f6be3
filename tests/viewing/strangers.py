# SPDX-License-Identifier: Apache-2.0
"""What somebody who is not the viewer's own page tries, byte by byte, as curl and other websites' pages would."""

import socket

UP = "../" * 30
OUTSIDE = (
    f"/assets/{UP}etc/passwd",
    f"/{UP}etc/passwd",
    f"/index.html/{UP}etc/passwd?x=1",
    "//etc/passwd",
    "/assets/../../../__init__.py",
    "/assets/../index.html",
    "/..",
    "/assets",
    "/%2e%2e/%2e%2e/__init__.py",
    "/..\\..\\__init__.py",
    "/no such file",
    f"/{'x' * 3000}",
    "index.html",
    "http://127.0.0.1/index.html",
)


def ask(port: int, path: str, **headers: str | list[str] | None) -> tuple[int, bytes]:
    """Status and body for a request that is sent as it is; a list sends a header several times, None leaves it out.

    Newer servers hang up on a line that is no request; that counts as 400.
    """
    lines = [f"GET {path} HTTP/1.1"]
    for name, value in {"Host": f"127.0.0.1:{port}", **headers}.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        lines += [f"{name.replace('_', '-')}: {one}" for one in values]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        received = b""
        while b"\r\n\r\n" not in received or not received.startswith(b"HTTP/1.1 101"):
            part = connection.recv(1 << 16)
            if not part:
                break
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 400, body


def knock(port: int, **headers: str | list[str] | None) -> int:
    """Status of a websocket's handshake; 101 lets in."""
    key = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}
    return ask(port, "/", Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==", **{**key, **headers})[0]


def assert_guarded(port: int) -> None:
    """The page's own files are given away, nothing else, and only its own page gets in."""
    own, rebound = f"http://127.0.0.1:{port}", f"evil.example:{port}"
    status, page = ask(port, "/")
    assert (status, b"<html" in page) == (200, True)
    assert ask(port, "/index.html?v=2", Host=f"localhost:{port}", Accept_Encoding="gzip")[0] == 200
    for path in OUTSIDE:
        status, body = ask(port, path)
        assert status in (400, 404), path
        assert not any(word in body for word in (b"root:", b"import")), path
    strangers = ("http://evil.example", f"http://{rebound}", f"http://127.0.0.1:{port + 1}", f"{own}.evil.example",
                 "null", "", f"ftp://127.0.0.1:{port}", "http://[", [own, "http://evil.example"])  # fmt: skip
    for origin in strangers:
        assert knock(port, Origin=origin) in (400, 403), origin
        assert ask(port, "/", Origin=origin)[0] == 403, origin
    for host in (rebound, "evil.example", "localhost.evil.example", "10.1.2.3", "[", "", None, ["localhost", rebound]):
        assert ask(port, "/", Host=host)[0] == 403, host
        assert knock(port, Host=host, Origin=f"http://{host}") == 403, host
    assert knock(port) == 403
    assert knock(port, Upgrade=["websocket", "websocket"], Origin=own) == 403
    assert knock(port, Upgrade="WebSocket", Origin=own) != 101
    assert knock(port, Origin=own) == 101
    assert knock(port, Host=f"localhost:{port}", Origin=f"http://localhost:{port}") == 101
    assert knock(port, Host=f"[::1]:{port}", Origin=f"http://[::1]:{port}") == 101
