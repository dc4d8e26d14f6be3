# SPDX-License-Identifier: Apache-2.0
import threading
import time

import pytest

from harmonizer_ns.viewing.worker import FairLock


def test_a_viewer_gets_its_turn_while_training_never_pauses():
    turns, stop = FairLock(), threading.Event()
    inside, most, steps = 0, 0, 0

    def enter():
        nonlocal inside, most
        with turns:
            inside += 1
            most = max(most, inside)
            time.sleep(0.002)
            inside -= 1

    def train():
        nonlocal steps
        while not stop.is_set():
            enter()
            steps += 1

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    waits = []
    for _ in range(10):
        asked = steps
        enter()
        waits.append(steps - asked)
        time.sleep(0.003)
    stop.set()
    thread.join(5)
    assert most == 1
    assert max(waits) <= 3
    assert steps > 10


def test_an_error_inside_ends_the_turn():
    turns = FairLock()
    for message in ("first", "second"):
        with pytest.raises(RuntimeError, match=message), turns:
            raise RuntimeError(message)
