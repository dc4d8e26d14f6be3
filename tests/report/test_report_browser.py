# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser, opened from disk: sliders move, choices and tables work, and no request leaves it."""

import json

import numpy as np
import pytest
import torch
from devtools import CHROMIUM, open_page, wait_for
from sample import coloured, report, view

from harmonizer_ns.report import View, write_report

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is missing: apt-get install chromium")
HOSTILE = "<script>hacked = 1</script><img src=https://example.com/x onerror='hacked = 2'>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def page(folder):
    """A report with a hostile view in the middle, in a browser that records requests and complaints."""
    views = (
        view("wörst", 18.0, 17.5, weight=torch.rand(1, 90, 120)),
        View(HOSTILE, {HOSTILE: coloured(1, 0, 0), "b": coloured(0, 1, 0, 90, 70)}, {}, 19.0),
        view("best", 25.0, 26.0),
    )
    file = write_report(folder / "report", report(HOSTILE, views))
    with open_page("about:blank", folder) as opened:
        for domain in ("Network", "Log"):
            opened.call(f"{domain}.enable")
        opened.call("Emulation.setDeviceMetricsOverride", width=900, height=1000, deviceScaleFactor=1, mobile=False)
        opened.call("Page.navigate", url=file.as_uri())
        wait_for(lambda: opened.evaluate("document.readyState === 'complete' && document.images.length > 5"), 30)
        yield opened


def frame(page, folder, place=0):
    """Shares of the slider's picture that are mostly red, green and blue; and the slider's rectangle."""
    where = f"document.querySelector('#view-{place} .frame')"
    page.evaluate(f"{where}.scrollIntoView({{block: 'center'}})")
    box = json.loads(page.evaluate(f"JSON.stringify({where}.getBoundingClientRect())"))
    left, top, right, bottom = (round(box[name]) for name in ("left", "top", "right", "bottom"))
    pixels = page.screenshot(folder / f"view_{place}.png")[top:bottom, left:right].astype(float)
    high = pixels > 150
    only = [high[..., i] & ~high[..., (i + 1) % 3] & ~high[..., (i + 2) % 3] for i in range(3)]
    return np.array([mask.mean() for mask in only]), (left, top, right, bottom)


def choose(page, place, side, name):
    page.evaluate(
        f"(() => {{ const at = document.querySelector('#view-{place} select.{side}');"
        f"at.value = {json.dumps(name)}; at.dispatchEvent(new Event('change')); }})()"
    )


def test_a_person_can_drag_the_slider(page, folder):
    (red, green, _), (left, top, right, bottom) = frame(page, folder)
    assert red == pytest.approx(green, abs=0.05)
    middle = (left + right) // 2, (top + bottom) // 2
    page.drag(middle, (left + (right - left) // 4, middle[1]))
    (red, green, _), _ = frame(page, folder)
    assert red == pytest.approx(0.25, abs=0.07)
    assert green == pytest.approx(0.75, abs=0.07)
    page.drag((left + (right - left) // 4, middle[1]), middle)


def test_the_keyboard_moves_the_slider(page, folder):
    slider = "document.querySelector('#view-2 input')"
    page.evaluate(f"{slider}.focus()")
    before, _ = frame(page, folder, 2)
    for _ in range(30):
        page.press("ArrowRight")
    after, _ = frame(page, folder, 2)
    assert page.evaluate(f"{slider}.value") == "65"
    assert after[0] - before[0] == pytest.approx(0.15, abs=0.03)
    page.evaluate(f"{slider}.blur()")


def test_any_pair_can_be_compared(page, folder):
    choose(page, 0, "left", "truth")
    (red, green, blue), _ = frame(page, folder)
    assert red < 0.02
    assert green == pytest.approx(blue, abs=0.05)
    choose(page, 0, "right", "truth")
    assert frame(page, folder)[0][2] > 0.9
    page.evaluate("document.querySelector('#view-0 .strip button').click()")
    (red, _, blue), _ = frame(page, folder)
    assert red == pytest.approx(blue, abs=0.05)
    assert page.evaluate("document.querySelector('#view-0 span.right').textContent") == "plain"


def test_one_choice_serves_all_views_that_have_the_picture(page):
    page.evaluate(
        "(() => { const all = document.querySelector('.all-views select.right');"
        "all.value = 'truth'; all.dispatchEvent(new Event('change')); })()"
    )
    values = page.evaluate("[...document.querySelectorAll('.view select.right')].map(s => s.value)")
    assert values == ["truth", "b", "truth"]


def test_tables_sort(page):
    def first_column():
        return page.evaluate("[...document.querySelectorAll('#all tbody th')].map(cell => cell.textContent)")

    assert first_column() == ["wörst", HOSTILE, "best"]
    for order in (["best", "wörst", HOSTILE], ["wörst", "best", HOSTILE]):  # what was not measured stays below
        page.evaluate("document.querySelectorAll('#all th button')[1].click()")
        assert first_column() == order


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(page, folder, width, scheme):
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.evaluate("document.querySelectorAll('details').forEach(item => { item.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("scrollTo(0, 0)")
    brightness = np.median(page.screenshot(folder / f"{scheme}_{width}.png"))
    assert brightness > 200 if scheme == "light" else brightness < 60


def test_no_request_leaves_the_page_and_names_run_nothing(page):
    assert page.evaluate("typeof hacked") == "undefined"
    asked = [event["params"] for event in page.events if event["method"] == "Network.requestWillBeSent"]
    addresses = {item["request"]["url"].partition(":")[0] for item in asked}
    assert addresses == {"file", "data"}
    assert len([item for item in asked if item["request"]["url"].startswith("file:")]) == 1  # the page itself
    assert [event for event in page.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")] == []
