# SPDX-License-Identifier: Apache-2.0
import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sample import coloured, report, view

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import save_image
from harmonizer_ns.report import CameraMap, Plot, Report, Table, View, write_report
from harmonizer_ns.report.views import BEST, WORST

HOSTILE = """</title></style></script><script>hacked = 1</script><img src=x onerror='hacked = 2'>"'{{ 7 * 6 }}|`**\\"""


class Elements(HTMLParser):
    """What a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.code = "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.found and self.found[-1][0] in ("script", "style"):
            self.code += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def written(folder: Path, content: Report) -> Elements:
    return Elements(write_report(folder, content).read_text(encoding="utf-8"))


def test_the_json_holds_all_figures(tmp_path):
    content = report(data={"raw": [1, np.float32(0.5), float("inf")], "path": Path("a/b")})
    write_report(tmp_path / "new", content)
    told = json.loads((tmp_path / "new" / "report.json").read_text(), parse_constant=pytest.fail)
    assert told["title"] == content.title
    assert told["summary"] == list(content.summary)
    assert told["tables"][0]["columns"] == list(content.tables[0].columns)
    assert told["tables"][0]["rows"][0] == ["plain", 20.0, 0.25, None, 12000]
    assert told["tables"][0]["rows"][1] == ["enhanced", 21.456, None, {"mean": 1.456, "deviation": 0.1}, 12000]
    assert told["plots"][0]["series"]["plain"] == [[0, 1.0], [50, None], [100, 0.5]]
    assert told["views"][1]["scores"] == {"PSNR ↑ plain": 18.0, "PSNR ↑ enhanced": 17.5}
    assert told["views"][0]["pictures"]["plain"] == [3, 90, 120]
    assert torch.equal(torch.tensor(told["cameras"]["groups"]["photos"]), content.cameras.groups["photos"])
    assert told["settings"] == {"seed": 7}
    assert told["data"] == {"raw": [1, 0.5, None], "path": "a/b"}


def test_the_markdown_holds_the_tables(tmp_path):
    content = report()
    write_report(tmp_path, content)
    text = (tmp_path / "report.md").read_text()
    tables = re.findall(r"^## (.+)\n\n\| (.+) \|\n\| ---.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in tables[0][2].splitlines()]
    assert tables[0][:2] == ("Held-out photos", "image | PSNR ↑ | LPIPS ↓ | gain ↑ | Gaussians")
    assert rows == [
        ["plain", "20.00", "0.250", "-", "12,000"],
        ["enhanced", "21.46", "nan", "+1.46 ± 0.10", "12,000"],
    ]
    assert "**21.46**" in text
    assert tables[1][2].splitlines()[0] == "| second | **18.00** | 17.50 |"  # the worst view is first
    assert '"seed": 7' in text


def test_the_page_needs_nothing_else(tmp_path):
    page = written(tmp_path, report())
    for _, attributes in page.found:
        addresses = [attributes.get(name) or "" for name in ("src", "href", "srcset", "action", "data", "poster")]
        assert all(address.startswith(("data:image/jpeg;base64,", "#", "")) for address in addresses)
        assert not any("//" in (value or "") for value in attributes.values() if "base64" not in (value or ""))
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttp|WebSocket", page.code)


def test_the_page_leads_with_the_headline_and_the_worst_view(tmp_path):
    page = written(tmp_path, report())
    order = "One got better, one got worse.", "Held-out photos", "1 better", "second", "first", "Settings and hashes"
    places = [page.text.index(text) for text in order]
    assert places == sorted(places)


def test_names_are_shown_and_not_obeyed(tmp_path):
    content = Report(
        HOSTILE,
        (HOSTILE,),
        (Table(HOSTILE, (HOSTILE, "PSNR ↑ " + HOSTILE), ((HOSTILE, 1.0),), HOSTILE),),
        (Plot(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: ((0, 1), (1, 2))}),),
        (View(HOSTILE, {HOSTILE: coloured(1, 0, 0), "b": coloured(0, 1, 0)}, {f"PSNR ↑ {HOSTILE}": 1.0}, 0.0),),
        CameraMap({HOSTILE: torch.rand(3, 3)}),
        {HOSTILE: HOSTILE},
    )
    page = written(tmp_path, content)
    assert [attributes for attributes in page.all("script") if attributes] == []
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") for _, attributes in page.found for name in attributes)
    assert all((image["src"] or "").startswith("data:image/jpeg") for image in page.all("img"))
    assert page.text.count(HOSTILE) > 10
    table = (tmp_path / "report.md").read_text().partition("\n| ")[2].splitlines()
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3 for line in table[1:3])
    assert "\n<" not in (tmp_path / "report.md").read_text()


def test_views_may_lack_pictures_and_scores(tmp_path):
    views = (
        View("no pictures", {}, {}, 0.0),
        View("one picture", {"plain": coloured(1, 0, 0)}, {"seconds": 1.5}, 1.0),
        View("plain and truth", {"plain": coloured(1, 0, 0), "truth": coloured(0, 0, 1)}, {"PSNR ↑ plain": None}, 2.0),
        view("whole", 20.0, None, weight=torch.rand(1, 90, 120)),
        View("no rank", {"plain": coloured(1, 0, 0)}, {}, float("nan")),
    )
    page = written(tmp_path, report(views=views))
    assert "This view has no pictures." in page.text
    sliders = [item for item in page.all("input") if item["type"] == "range"]
    assert [item["aria-label"].partition(":")[0] for item in sliders] == ["plain and truth", "whole"]
    assert sum(image["alt"] == "whole: weight" for image in page.all("img")) == 1
    assert "of 1 view" not in page.text  # nothing to compare


def test_the_slider_begins_with_what_was_made_last(tmp_path):
    page = written(tmp_path, report(views=(view("v", 1.0, 2.0, weight=torch.rand(1, 90, 120)),)))
    sides = {image["alt"]: image["class"] for image in page.all("img") if image["alt"]}
    assert sides == {"v: plain": "left", "v: enhanced": "right", "v: truth": "", "v: weight": ""}


def test_sizes_may_differ_and_large_pictures_shrink(tmp_path):
    save_image(tmp_path / "truth.png", torch.rand(3, 60, 2000))
    odd = View("v", {"plain": coloured(1, 0, 0), "truth": tmp_path / "truth.png"}, {}, 0.0)
    page = written(tmp_path, report(views=(odd,)))
    assert "plain 120\N{MULTIPLICATION SIGN}90, truth 2000\N{MULTIPLICATION SIGN}60" in page.text
    assert (tmp_path / "report.html").stat().st_size < 200_000


def test_views_in_the_middle_are_left_out_and_the_page_says_so(tmp_path):
    views = tuple(view(f"v{i:02d}", float(i), i + 1.0) for i in range(30))
    page = written(tmp_path, report(views=views[::-1]))
    kept = [image["alt"].partition(":")[0] for image in page.all("img") if (image["alt"] or "").endswith("plain")]
    assert kept == [f"v{i:02d}" for i in [*range(WORST), *range(30 - BEST, 30)]]
    assert f"{WORST + BEST} of 30 views have pictures here" in page.text
    assert "v15" in page.text  # in the table


@pytest.mark.parametrize(
    "positions",
    [torch.zeros(0, 3), torch.full((4, 3), float("nan")), torch.zeros(1, 3), torch.ones(5, 3), torch.rand(1, 3) * 1e6],
)
def test_maps_of_few_or_no_cameras(tmp_path, positions):
    page = written(tmp_path, report(cameras=CameraMap({"photos": positions})))
    assert ("Positions in scene units" in page.text) == bool(positions.isfinite().any())


def test_plots_of_odd_points(tmp_path):
    series = {
        "none": (),
        "nan": ((0, float("nan")),),
        "one": ((3, 5.0),),
        "many": tuple((i, i % 7) for i in range(9999)),
    }
    page = written(tmp_path, report(plots=(Plot("odd", "x", "y", series), Plot("empty", "x", "y", {"a": ()}))))
    assert "No point of it is finite." in page.text
    assert max(len(line["points"]) for line in page.all("polyline")) < 10_000


def test_an_empty_report(tmp_path):
    page = written(tmp_path, Report("Nothing", ()))
    assert "Nothing" in page.text


def test_names_of_files_that_are_no_unicode(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    page = written(tmp_path, Report(name, (), settings={"capture": Path(name)}))
    assert page.text.count("caf?.png") == 3
    assert json.loads((tmp_path / "report.json").read_text())["settings"] == {"capture": name}


def test_a_picture_that_cannot_be_read_leaves_an_older_report_as_it_was(tmp_path):
    write_report(tmp_path, report())
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"gone\.png"):
        write_report(tmp_path, report(views=(View("v", {"plain": tmp_path / "gone.png"}, {}, 0.0),)))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_same_report_is_the_same_page(tmp_path):
    torch.manual_seed(0)
    content = report()
    assert write_report(tmp_path / "a", content).read_bytes() == write_report(tmp_path / "b", content).read_bytes()


def test_galleries_show_all_of_their_views_and_bytes_are_colours(tmp_path):
    red, white = (coloured(1, 0, 0) * 255).byte(), torch.full((1, 90, 120), 255, dtype=torch.uint8)
    some = tuple(
        View(f"target {i}", {"render": red, "weight": white}, {}, float("nan")) for i in range(WORST + BEST + 4)
    )
    page = written(tmp_path, report(galleries={"Last round": some}))
    shown = {image["alt"]: image["src"] for image in page.all("img") if (image["alt"] or "").startswith("target")}
    assert len(shown) == 2 * len(some)
    colours = [
        Image.open(io.BytesIO(base64.b64decode(shown[f"target 0: {name}"].partition(",")[2]))).getpixel((60, 45))
        for name in ("render", "weight")
    ]
    assert np.abs(np.array(colours) - [(255, 0, 0), (255, 255, 255)]).max() < 8
    assert "Last round" in page.text
    assert "target 3" not in (tmp_path / "report.md").read_text()
