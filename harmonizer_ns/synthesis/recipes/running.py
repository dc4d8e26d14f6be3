# SPDX-License-Identifier: Apache-2.0
"""Work through a task list: here, in processes of this machine, or with Ray on many machines that share the disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from harmonizer_ns.errors import InputError
from harmonizer_ns.synthesis.recipes.items import Place, make_item
from harmonizer_ns.synthesis.recipes.plan import Item


def run_items(items: Sequence[Item], place: Place, workers: int, ray: bool) -> Iterator[str | None]:
    """Make items; yields what is wrong with each, or None, as they finish.

    Raises:
        InputError: when Ray is asked for and not installed, or a process dies.
    """
    if ray:
        return _with_ray(items, place)
    if workers > 1:
        return _with_processes(items, place, workers)
    return (make_item(item, place) for item in items)


def _with_processes(items: Sequence[Item], place: Place, workers: int) -> Iterator[str | None]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(make_item, item, place) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process died (out of memory?); what is finished stays: run again, with fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _with_ray(items: Sequence[Item], place: Place) -> Iterator[str | None]:
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs Ray: pip install 'harmonizer-ns[ray]'") from error
    task = ray.remote(make_item)
    waiting = [task.remote(item, place) for item in items]
    while waiting:
        done, waiting = ray.wait(waiting)
        yield from ray.get(done)
