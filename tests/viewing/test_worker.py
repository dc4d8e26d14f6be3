# SPDX-License-Identifier: Apache-2.0
import threading
import time

import pytest

from harmonizer_ns.viewing.worker import LatestWorker


@pytest.fixture
def errors():
    return []


@pytest.fixture
def worker(errors):
    worker = LatestWorker(lambda client, error: errors.append((client, str(error))))
    yield worker
    worker.close()


class Gate:
    """A job that waits until it is opened."""

    def __init__(self):
        self.started, self.open = threading.Event(), threading.Event()

    def __call__(self):
        self.started.set()
        assert self.open.wait(5)
        return "gate"


def finish(worker):
    """Wait until everything submitted so far is done."""
    done = threading.Event()
    worker.submit("last", lambda: None, lambda _: done.set())
    assert done.wait(5)


def test_the_latest_job_of_each_client_wins_and_clients_take_turns(worker):
    gate, delivered = Gate(), []
    worker.submit("a", gate, delivered.append)
    assert gate.started.wait(5)
    for i in range(100):
        worker.submit("a", lambda i=i: f"a{i}", delivered.append)
        worker.submit("b", lambda i=i: f"b{i}", delivered.append)
    gate.open.set()
    finish(worker)
    assert delivered == ["gate", "a99", "b99"]


def test_an_error_is_reported_and_work_goes_on(worker, errors):
    def fail():
        raise RuntimeError("no memory")

    delivered = []
    worker.submit("a", fail, delivered.append)
    finish(worker)
    worker.submit("a", lambda: 1, delivered.append)
    finish(worker)
    assert errors == [("a", "no memory")]
    assert delivered == [1]


def test_a_client_that_leaves_mid_frame_gets_nothing(worker, errors):
    gate, delivered = Gate(), []
    worker.submit("a", gate, delivered.append)
    assert gate.started.wait(5)
    worker.submit("a", lambda: "waiting", delivered.append)
    worker.forget("a")
    gate.open.set()
    finish(worker)
    assert delivered == []
    assert errors == []
    worker.submit("a", lambda: "back", delivered.append)
    finish(worker)
    assert delivered == ["back"]


def test_a_delayed_job_waits_and_gives_way(worker):
    delivered = []
    started = time.monotonic()
    worker.submit("b", lambda: time.monotonic() - started, delivered.append, delay=0.1)
    worker.submit("a", lambda: "rest", delivered.append, delay=30.0)
    worker.submit("a", lambda: "move", delivered.append)
    worker.submit("b", lambda: "dropped", delivered.append, replace=False)
    deadline = time.monotonic() + 5
    while len(delivered) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert delivered[0] == "move"
    assert delivered[1] >= 0.1


def test_closing_ends_the_thread_and_ignores_later_jobs():
    others, delivered = set(threading.enumerate()), []
    worker = LatestWorker(print)
    worker.submit("a", lambda: 1, delivered.append, delay=30.0)
    worker.close()
    assert set(threading.enumerate()) <= others
    worker.submit("a", lambda: 1, delivered.append)
    assert delivered == []
