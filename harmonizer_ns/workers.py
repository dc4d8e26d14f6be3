# SPDX-License-Identifier: Apache-2.0
"""Tasks are done here, in processes of this machine, or with Ray on many machines.

`run_all` shares processes among tasks; `run_apart` gives each its own, so that one that dies takes no other with it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

from harmonizer_ns.errors import InputError, of_extra

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


def run_apart(
    do: Callable[[T], R], tasks: Sequence[T], workers: int, died: Callable[[T, int | None], R]
) -> Generator[R, None, None]:
    """Do each task in a process of its own; yields what each gave, as they end. Closing it stops what is in progress.

    Args:
        do: can be pickled, and so can the tasks; raises nothing.
        tasks: begun in this order.
        workers: processes at a time.
        died: says what stands for a task whose process died, by its exit code (negative: a signal).
    """
    context, waiting = get_context("spawn"), list(reversed(tasks))
    running: dict[Connection, tuple[BaseProcess, T]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                task = waiting.pop()
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_send, args=(do, task, sender))
                process.start()
                sender.close()
                running[receiver] = process, task
            for receiver in wait(list(running)):
                process, task = running.pop(receiver)  # type: ignore[arg-type]
                try:
                    outcome = receiver.recv()  # type: ignore[union-attr]
                except EOFError:
                    outcome = None
                process.join()
                yield died(task, process.exitcode) if outcome is None else outcome
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()


def _send(do: Callable[[T], R], task: T, sender: Connection) -> None:
    _follow_parent()
    outcome = do(task)
    with suppress(BrokenPipeError):  # nobody waits any more
        sender.send(outcome)


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
    with of_extra("ray", "--ray"):
        import ray
    remote = ray.remote(lambda task: do(task))  # Ray takes plain functions alone
    waiting = [remote.remote(task) for task in tasks]
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
