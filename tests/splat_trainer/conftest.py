# SPDX-License-Identifier: Apache-2.0
import pytest
from toy import write_colmap


@pytest.fixture(scope="session")
def colmap(tmp_path_factory):
    """Ten photos, 64x48, with spaces in their names; the first and sixth are held out."""
    return write_colmap(tmp_path_factory.mktemp("colmap"))
