# SPDX-License-Identifier: Apache-2.0
"""A small thread pool for kernels that release the GIL.

numba's own threading layer crashes when two Python threads call it at once (a viewer and a trainer), so the
kernels are serial and this module spreads their independent chunks over Python threads. The chunks do not depend
on the number of threads, hence neither do the results.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

_lock = threading.Lock()
_requested: int | None = None
_pool: ThreadPoolExecutor | None = None
_pool_key = (0, 0)


def set_num_threads(count: int | None) -> None:
    """Choose how many threads each rasterization may use.

    Args:
        count: at least 1, or ``None`` for the default, ``torch.get_num_threads()`` at the time of each call.

    Raises:
        ValueError: if ``count`` is below 1.
    """
    global _requested
    if count is not None and count < 1:
        raise ValueError(f"set_num_threads needs a count of at least 1, got {count}")
    _requested = count


def get_num_threads() -> int:
    """How many threads a rasterization started now would use."""
    return _requested if _requested is not None else max(1, torch.get_num_threads())


def give_cores_to_the_rasterizer() -> None:
    """On a CPU, one thread for torch and all cores for the rasterizer, unless OMP_NUM_THREADS says otherwise.

    torch's OpenMP threads spin while they wait, which costs a splat of small images more than they gain.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        set_num_threads(os.cpu_count())
        torch.set_num_threads(1)


def _executor(workers: int) -> ThreadPoolExecutor:
    """The shared pool with at least ``workers`` threads; a forked child makes its own."""
    global _pool, _pool_key
    with _lock:
        if _pool is None or _pool_key[0] != os.getpid() or _pool_key[1] < workers:
            _pool = ThreadPoolExecutor(workers, thread_name_prefix="raster")
            _pool_key = (os.getpid(), workers)
        return _pool


def _drain(task: Callable[[int, int], None], chunks: Iterator[tuple[int, int]], lock: threading.Lock) -> None:
    while True:
        with lock:
            bounds = next(chunks, None)
        if bounds is None:
            return
        task(*bounds)


def parallel_chunks(task: Callable[[int, int], None], count: int, chunk: int) -> None:
    """Run ``task(begin, end)`` over ``[0, count)`` in pieces of ``chunk``, on the calling thread and the pool's.

    The calling thread always works too, so a busy pool delays but never blocks. The first exception is raised.
    """
    pieces = [(begin, min(begin + chunk, count)) for begin in range(0, count, chunk)]
    helpers = min(get_num_threads(), len(pieces)) - 1
    if helpers < 1:
        for begin, end in pieces:
            task(begin, end)
        return
    chunks, lock = iter(pieces), threading.Lock()
    futures = [_executor(helpers).submit(_drain, task, chunks, lock) for _ in range(helpers)]
    try:
        _drain(task, chunks, lock)
    finally:
        with lock:
            list(chunks)  # what is left after an error or Ctrl-C is not begun
        started = [future for future in futures if not future.cancel()]
        errors = [future.exception() for future in started]
    for error in errors:
        if error is not None:
            raise error
