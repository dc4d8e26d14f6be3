# SPDX-License-Identifier: Apache-2.0
import pytest
from splat_runs import Mixer
from toy import write_colmap

from harmonizer_ns.distill import repairs


@pytest.fixture(scope="session")
def colmap(tmp_path_factory):
    """Ten photos, 64x48, with spaces in their names; the first and sixth are held out."""
    return write_colmap(tmp_path_factory.mktemp("colmap"))


@pytest.fixture
def mixer(monkeypatch):
    enhancer = Mixer()
    monkeypatch.setattr(repairs, "load_enhancer", lambda name: enhancer)
    return enhancer
