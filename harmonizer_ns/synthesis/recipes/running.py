# SPDX-License-Identifier: Apache-2.0
"""Work through a task list: here, in processes of this machine, or with Ray on many machines that share the disk."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path

from harmonizer_ns.errors import InputError
from harmonizer_ns.synthesis.recipes.items import Outcome, make_item
from harmonizer_ns.synthesis.recipes.plan import Item


def run_items(items: Sequence[Item], output: Path, workers: int, ray: bool) -> Generator[Outcome, None, None]:
    """Make items; yields how each ended, as they end. Closing it stops what is in progress.

    Raises:
        InputError: when Ray is asked for and not installed, a process dies, or the disk is full.
    """
    if ray and items:
        yield from _with_ray(items, output)
    elif workers > 1 and items:
        yield from _with_processes(items, output, workers)
    else:
        yield from (make_item(item, output) for item in items)


def _with_processes(items: Sequence[Item], output: Path, workers: int) -> Iterator[Outcome]:
    others = set(active_children())
    pool = ProcessPoolExecutor(min(workers, len(items)), get_context("spawn"), _follow_parent)
    try:
        futures = [pool.submit(make_item, item, output) for item in items]
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
    """A worker leaves Ctrl-C to its parent, and ends when that ends, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _with_ray(items: Sequence[Item], output: Path) -> Iterator[Outcome]:
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs Ray: pip install 'harmonizer-ns[ray]'") from error
    task = ray.remote(make_item)
    waiting = [task.remote(item, output) for item in items]
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
