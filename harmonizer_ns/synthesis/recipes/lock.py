# SPDX-License-Identifier: Apache-2.0
"""One run at a time in an output folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harmonizer_ns.errors import InputError


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold the folder. The system releases the lock of a process that dies, so none is ever stale.

    Raises:
        InputError: naming the process that holds it, or when the folder cannot be written to.
    """
    holder = output / ".running"
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / ".lock", timeout=0).acquire()
    except Timeout as error:
        who = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
        raise InputError(
            f"{who} is working in {output}: wait until it ends, stop it, or take another --output"
        ) from error
    except OSError as error:
        raise InputError(f"cannot write to {output}: {error}") from error
    with lock:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)
