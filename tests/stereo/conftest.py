# SPDX-License-Identifier: Apache-2.0
import pytest
from solids import ROOM, Solids, around, capture, noise

from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.stereo.depth import DepthMap, estimate_depth


@pytest.fixture(scope="session")
def room() -> Solids:
    """A wall, a slanted wall and a sphere in front of them."""
    return Solids(ROOM, noise(0))


@pytest.fixture(scope="session")
def photos(room: Solids) -> Capture:
    """Six photos of the room."""
    return capture(room, around(6))


@pytest.fixture(scope="session")
def maps(photos: Capture) -> list[DepthMap]:
    """The depth of these photos; not to be written to."""
    return estimate_depth(photos)
