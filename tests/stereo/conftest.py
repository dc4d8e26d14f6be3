# SPDX-License-Identifier: Apache-2.0
import pytest
from solids import ROOM, Solids, around, capture, noise

from harmonizer_ns.captures.capture import Capture


@pytest.fixture(scope="session")
def room() -> Solids:
    """A wall, a slanted wall and a sphere in front of them."""
    return Solids(ROOM, noise(0))


@pytest.fixture(scope="session")
def photos(room: Solids) -> Capture:
    """Six photos of the room."""
    return capture(room, around(6))
