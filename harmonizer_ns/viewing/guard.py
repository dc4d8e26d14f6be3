# SPDX-License-Identifier: Apache-2.0
"""`guard_viser` closes what viser leaves open to strangers: files outside its page, its websocket, its controls.

viser reads any path that it is asked for (``/assets/../../../etc/passwd``) and lets the pages of every website steer
it. Guarded servers give away the files of viser's own page, to whoever calls them by a name of theirs (another name is
how a website gets at its visitor's own machine: DNS rebinding), and talk to pages that they served themselves. Browsers
always say where a page comes from; whoever does not is given the page's files and no conversation.
"""

from __future__ import annotations

import inspect
import os
import socket
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from harmonizer_ns.viewing.incoming import receive_plausible, remember_controls

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
PROXIES = "HARMONIZER_VIEWER_NAMES"
"""Environment variable: names, with commas between them, under which a proxy of the user's own shows the viewer."""
_WILDCARDS = ("0.0.0.0", "::", "")
_SHARED = ".share.viser.studio"  # viser's own tunnel, which somebody in front of the viewer has asked for


class Admission(NamedTuple):
    """Tells which requests are answered.

    Args:
        names: what this server is called in a browser's address bar, without the port.
        any_address: whether every numeric address is one of its names too.
        proxies: names that the user gave; pages of theirs are its own.
        files: paths of the page's files, such as "/index.html".
    """

    names: frozenset[str]
    any_address: bool
    proxies: frozenset[str]
    files: frozenset[str]

    @classmethod
    def of(cls, host: str | None) -> Admission:
        """That of a server which listens on ``host``; a wildcard is a machine under all its names."""
        names, everywhere = {*LOCAL_NAMES, (host or "").lower()}, (host or "") in _WILDCARDS
        if everywhere:
            own = socket.gethostname().lower()
            names |= {own, f"{own}.local", socket.getfqdn().lower()}
        proxies = frozenset(name.strip().lower() for name in os.environ.get(PROXIES, "").split(",") if name.strip())
        return cls(frozenset(names - {""}) | proxies, everywhere, proxies, _page_files())

    def refusal(self, path: str, headers: Any) -> HTTPStatus | None:
        """Tell how a request is refused, or None; ``headers`` are the package websockets'."""
        hosts, origins, upgrades = (headers.get_all(name) for name in ("Host", "Origin", "Upgrade"))
        if len(hosts) != 1 or len(upgrades) > 1 or not self._is_called(hosts[0]):
            return HTTPStatus.FORBIDDEN
        if not all(self._is_own_page(origin, hosts[0]) for origin in origins):
            return HTTPStatus.FORBIDDEN
        if upgrades == ["websocket"]:  # exactly what viser takes for one; the rest it reads from disk
            return None if origins else HTTPStatus.FORBIDDEN
        return None if path.partition("?")[0] in self.files else HTTPStatus.NOT_FOUND

    def _is_called(self, host: str) -> bool:
        name = _name_in(f"//{host}")
        return name in self.names or name.endswith(_SHARED) or (self.any_address and _is_address(name))

    def _is_own_page(self, origin: str, host: str) -> bool:
        return origin in (f"http://{host}", f"https://{host}") or _name_in(origin) in self.proxies


def guard_viser() -> None:
    """Guard every viser server that this process starts from now on; they take no uploads."""
    from viser.infra import _infra

    if not isinstance(_infra.websockets, _Guarded):
        _infra.websockets = _Guarded(_infra.websockets)  # pyright: ignore[reportAttributeAccessIssue]
        remember_controls()


class _Guarded:
    """The package `websockets` as viser sees it: wherever it keeps ``serve``, that is guarded."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name == "serve":
            return partial(_serve, found)
        return _Guarded(found) if isinstance(found, ModuleType) else found


def _serve(
    serve: Callable, converse: Callable, host: str | None, port: int, *, process_request: Callable, **options: Any
) -> Any:
    """Call ``serve`` with guarded callbacks.

    Old servers ask ``process_request(path, headers)`` for status, headers and body, new ones
    ``process_request(connection, request)`` for a response.
    """
    admission = Admission.of(host)

    async def admit(first: Any, second: Any) -> Any:
        is_old = isinstance(first, str)
        status = admission.refusal(first, second) if is_old else admission.refusal(second.path, second.headers)
        if status is None:
            answer = process_request(first, second)
            return await answer if inspect.isawaitable(answer) else answer
        text = f"{status.phrase}: a viewer shows its own page under its own names; {PROXIES} adds some\n"
        return (status, {}, text.encode()) if is_old else first.respond(status, text)

    async def talk(websocket: Any) -> None:
        receive_plausible(websocket)
        await converse(websocket)

    return serve(talk, host, port, process_request=admit, **options)


def _page_files() -> frozenset[str]:
    import viser

    page = Path(viser.__file__).parent / "client/build"
    return frozenset(f"/{file.relative_to(page).as_posix()}" for file in page.rglob("*") if file.is_file()) | {"/"}


def _name_in(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:  # brackets without an address in them
        return ""


def _is_address(name: str) -> bool:
    try:
        return bool(ip_address(name))
    except ValueError:
        return False
