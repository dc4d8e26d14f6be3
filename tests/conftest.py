# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from toy import write_capture


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photos, 64x48; two are held out."""
    return write_capture(tmp_path_factory.mktemp("capture"))


@pytest.fixture
def own_capture(tmp_path: Path) -> Path:
    """As `capture`, for tests that damage it."""
    return write_capture(tmp_path / "capture")
