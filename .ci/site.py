# SPDX-License-Identifier: Apache-2.0
"""What mkdocs needs beside docs/: the README and other pages of the repository join the site, and links follow them."""

import re
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "assets/builtin/README.md": "model_card.md",
    "assets/demo/README.md": "demo.md",
    "configs/README.md": "recipes.md",
}
"""Page of the repository -> its name in the site."""


def on_files(files, config):
    """Add pages, and the pictures that they show."""
    for source, name in PAGES.items():
        text = (ROOT / source).read_text()
        files.append(File.generated(config, name, content=text))
        for target in re.findall(r"!\[[^\]]*\]\(([^)#:]+)\)", text):
            path = _resolved(source, target)
            if not path.startswith("docs/"):
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links lead to pages of the site; what is in the repository alone is named without a link."""
    sources = {name: source for source, name in PAGES.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return re.sub(
        r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)",
        lambda match: _link(source, *match.groups(default="")),
        markdown,
    )


def _link(source: str, mark: str, text: str, target: str, anchor: str) -> str:
    path = _resolved(source, target)
    if path in PAGES or path.startswith("docs/") or mark:
        return f"{mark}[{text}]({PAGES.get(path, path.removeprefix('docs/'))}{anchor})"
    return text


def _resolved(source: str, target: str) -> str:
    """The path in the repository of what a page links to."""
    parts: list[str] = []
    for part in (PurePosixPath(source).parent / target).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)
