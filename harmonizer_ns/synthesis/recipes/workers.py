# SPDX-License-Identifier: Apache-2.0
"""Tasks are done here, in processes of this machine, or with Ray on many machines; one run at a time in a folder."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from harmonizer_ns.errors import InputError

T = TypeVar("T")
R = TypeVar("R")


def run_all(do: Callable[[T], R], tasks: Sequence[T], workers: int, ray: bool) -> Generator[R, None, None]:
    """Do tasks; yields what each gave, as they end. Closing it stops what is in progress.

    Args:
        do: can be pickled, and so can the tasks, when others than this process do them.
        tasks: in any order.
        workers: processes on this machine; 1 takes this one.
        ray: whether Ray does them instead.

    Raises:
        InputError: when Ray is asked for and not installed, a process dies, or as ``do``.
    """
    if ray and tasks:
        yield from _with_ray(do, tasks)
    elif workers > 1 and tasks:
        yield from _with_processes(do, tasks, workers)
    else:
        yield from map(do, tasks)


def _with_processes(do: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[R]:
    others = set(active_children())
    pool = ProcessPoolExecutor(min(workers, len(tasks)), get_context("spawn"), _follow_parent)
    try:
        futures = [pool.submit(do, task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process died (out of memory?); what is finished stays: run again, with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(active_children()) - others:  # none after all is done
            process.terminate()
            process.join()


def _follow_parent() -> None:
    """A worker leaves Ctrl-C to its parent, and ends when its parent ends, however that happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _with_ray(do: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs Ray: pip install 'harmonizer-ns[ray]'") from error
    remote = ray.remote(lambda task: do(task))  # Ray takes plain functions alone
    waiting = [remote.remote(task) for task in tasks]
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold a folder while the block runs. The system releases the lock of a process that dies: none is ever stale.

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
