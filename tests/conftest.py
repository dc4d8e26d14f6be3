# SPDX-License-Identifier: Apache-2.0
import inspect
import re
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch
from pretended_cuda import pretend
from pretended_gsplat import pretend_gsplat
from tiny_difix import write_tiny_difix
from toy import write_capture
from toy_enhancer import Mixer

from harmonizer_ns.distill import repairs
from harmonizer_ns.raster import set_num_threads

# nerfstudio asks 26 times for the whole stack while it is imported; below pytest, reading source lines takes seconds.
inspect.stack = lambda context=0: inspect.getouterframes(sys._getframe(1), context)

EXTRAS = "nerfstudio|torchvision|lpips|torchmetrics"
"""Without these the core is tested: modules that import them are skipped."""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    missing = re.search(rf"No module named '(?:{EXTRAS})\b.*", report.longreprtext)
    if report.failed and missing:
        report.outcome, report.longrepr = "skipped", (str(collector.path), 0, missing.group())
    return report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pretended-gpu", action="store_true", help="tests marked gpu run on a pretended one")


@pytest.fixture(autouse=True)
def _pretended_gpu(request: pytest.FixtureRequest) -> None:
    """With ``-m gpu --pretended-gpu`` those tests run here, but for compiled networks."""
    if request.node.get_closest_marker("gpu") and request.config.getoption("--pretended-gpu"):
        request.getfixturevalue("gpu")


@pytest.fixture(autouse=True)
def _one_thread():
    """Every test begins with one thread: such runs are bit-identical, and small machines have few cores."""
    torch.set_num_threads(1)
    set_num_threads(None)


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photos, 64x48; two are held out."""
    return write_capture(tmp_path_factory.mktemp("capture"))


@pytest.fixture
def own_capture(tmp_path: Path) -> Path:
    """As `capture`, for tests that damage it."""
    return write_capture(tmp_path / "capture")


@pytest.fixture(scope="session")
def tiny_difix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Difix folder in the Hub's layout; not to be written to."""
    return write_tiny_difix(tmp_path_factory.mktemp("difix") / "tiny")


@pytest.fixture
def mixer(monkeypatch: pytest.MonkeyPatch) -> Mixer:
    """The enhancer of all trainers in a test."""
    enhancer = Mixer()
    monkeypatch.setattr(repairs, "load_enhancer", lambda name: enhancer)
    return enhancer


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """There is a pretended GPU, see `pretended_cuda`."""
    pretend_gsplat(monkeypatch)
    with pretend(monkeypatch):
        yield
