# SPDX-License-Identifier: Apache-2.0
"""What README and docs show is true: links lead somewhere, commands can be read, Python runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from tiny_difix import write_tiny_difix

from harmonizer_ns.cli.main import COMMANDS, find
from harmonizer_ns.images import save_image

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "configs" / "README.md"]
PAGES += sorted((ROOT / "assets").glob("*/README.md"))
TEXTS = [*PAGES, *sorted((ROOT / "configs" / "recipes").glob("*.yaml"))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(text: Path) -> list[list[str]]:
    """The commands of a page's bash blocks, or of a recipe's comment, as words."""
    is_page = text.suffix == ".md"
    found = blocks(text, "bash") if is_page else re.findall(r"^# {3,}(.*)$", text.read_text(), re.MULTILINE)
    lines = re.split(r"\n|&&", "\n".join(found).replace("\\\n", " "))
    return [shlex.split(line, comments=True) for line in lines if re.match(r"\s*\w" if is_page else "harmonizer", line)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("text", TEXTS, ids=name_of)
def test_commands_can_be_read(text):
    """Every option that is shown exists and takes what is shown; nothing is run."""
    for words in commands(text):
        if words[0] == "harmonizer":
            import_module(find(words[1]).module).parse(words[2:])
        elif words[0] == "torchrun":
            import_module(find("train").module).parse(words[words.index("train") + 1 :])
        elif words[0] == "gsplat-trainer":
            import_module("gsplat_trainer.__main__").parse(words[1:])
        elif words[0] == "ns-train":
            parse_ns_train(words[1:])
        else:
            assert words[0] in ("pip", "pytest"), words


def parse_ns_train(words: list[str]) -> None:
    import tyro
    from nerfstudio.configs.method_configs import all_methods

    method = all_methods[words[0]]  # of all, as ns-train reads them, it takes seconds
    kind = tyro.conf.SuppressFixed[tyro.conf.FlagConversionOff[type(method)]]
    tyro.cli(kind, default=method, args=words[1:])  # type: ignore[arg-type]


@pytest.mark.parametrize("text", TEXTS, ids=name_of)
def test_commands_in_the_text_exist(text):
    content = text.read_text()
    assert set(re.findall(r"`harmonizer ([a-z]+)", content)) <= set(COMMANDS)
    assert not re.search(r"python -m harmonizer_ns", content)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_runs(page, tmp_path, monkeypatch):
    """As written, but with a tiny Difix of random weights on a CPU in the place of the released one."""
    monkeypatch.chdir(tmp_path)
    for name in ("render.png", "photo.png"):
        save_image(tmp_path / name, torch.rand(3, 40, 64))
    for code in blocks(page, "python"):
        tiny = code.replace("nvidia/difix_ref", "tiny").replace('"cuda"', '"cpu"')
        if tiny != code:
            write_tiny_difix(tmp_path / "tiny")
        exec(compile(tiny, name_of(page), "exec"), {})


def test_the_site_is_built_without_a_warning(tmp_path):
    """Links between its pages are checked on the way; nothing is fetched."""
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    page = (tmp_path / "index.html").read_text()
    assert (tmp_path / "demo.jpg").is_file()
    assert not re.search(r'(src|href)="(https?:)?//[^"]+\.(js|css|woff2?)"', page)


def test_every_page_has_its_place_in_the_site():
    settings = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f": {page.name}\n" not in settings] == []
