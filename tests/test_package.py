# SPDX-License-Identifier: Apache-2.0
"""Promises about the product as a whole: what imports what, what is shipped, what a module may load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import harmonizer_ns

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
DRAWING = ROOT / "docs" / "architecture.md"


def drawn(page: str) -> list[list[str]]:
    """The rows of the drawing, from bottom to top."""
    rows = re.findall(r"^\| (`\w+`(?: `\w+`)*) \|", page, flags=re.MULTILINE)
    return [re.findall(r"\w+", row) for row in reversed(rows)]


ORDER = drawn(DRAWING.read_text())
"""From bottom to top: a module may import from its own package and from the rows below its own. The small modules of
the lowest row may import each other."""


class Import(NamedTuple):
    """One module names another: in an import, or in a string such as ``"module:Class"`` for a later one."""

    user: str
    used: str

    def __str__(self):
        return f"{self.user} -> {self.used}"


@cache
def modules() -> dict[str, Path]:
    """Every module of the product by its name."""
    files = [file for top in ("harmonizer_ns", "gsplat_trainer") for file in (ROOT / top).rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def nodes(tree: ast.AST, deep: bool = True) -> Iterator[ast.AST]:
    """Everything below a node, without what only type checkers read, and with what is in functions or not."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if deep or not isinstance(child, ast.FunctionDef):
            yield child
            yield from nodes(child, deep)


def imported(node: ast.AST) -> set[str]:
    """Names in an import."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    return {f"{node.module}.{alias.name}" for alias in node.names} if isinstance(node, ast.ImportFrom) else set()


@cache
def names_in(file: Path) -> frozenset[str]:
    """Names that a file imports at any depth, and the dotted ones that its strings hold, before a colon."""
    names = set()
    for node in nodes(ast.parse(file.read_text())):
        names |= imported(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            names.add(node.value.partition(":")[0])
    return frozenset(names)


def loaded_with(module: str) -> set[str]:
    """What is imported along with a module: modules and packages of ours, and the first of others'."""
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        new = {name.rsplit(".", depth)[0] for depth in range(name.count(".") + 1)} - seen
        seen |= new
        files = [modules()[found] for found in new if found in modules()]
        todo += [
            used for file in files for node in nodes(ast.parse(file.read_text()), False) for used in imported(node)
        ]
    return seen


@cache
def imports() -> list[Import]:
    """Who names whom within the product."""
    found = set()
    for user, file in modules().items():
        for name in names_in(file):
            used = name if name in modules() else name.rpartition(".")[0]
            if used in modules() and used != user:
                found.add(Import(user, used))
    return sorted(found)


def package(module: str) -> str:
    """The name in `ORDER` that a module belongs to; the face of the product stands above all, as ``""``."""
    return "gsplat_trainer" if module.startswith("gsplat_trainer") else [*module.split("."), ""][1]


def floor(name: str) -> int:
    """The line of `ORDER` that a package stands in."""
    return next(i for i, row in enumerate(ORDER) if name in row)


def test_every_package_has_its_place_in_the_order():
    assert sorted({package(module) for module in modules()} - {""}) == sorted(name for row in ORDER for name in row)


def test_imports_point_one_way():
    against = set()
    for found in imports():
        user, used = package(found.user), package(found.used)
        if user and used and user != used and floor(used) >= max(1, floor(user)):
            against.add(str(found))
    assert against == set()


def test_no_modules_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for found in imports():
        graph.setdefault(found.user, set()).add(found.used)
    TopologicalSorter(graph).prepare()  # names the circle


def test_no_module_of_the_package_uses_its_late_names():
    late = {f"harmonizer_ns.{name}" for name in harmonizer_ns.__all__}
    assert [module for module, file in modules().items() if late & names_in(file)] == []


def test_only_the_plugin_imports_nerfstudio():
    users = {package(module) for module, file in modules().items() if any_of("nerfstudio", names_in(file))}
    assert users == {"plugin"}


def any_of(top: str, names: frozenset[str]) -> bool:
    return any(name == top or name.startswith(f"{top}.") for name in names)


@pytest.mark.parametrize("module", [name for name, file in modules().items() if file.name == "__init__.py"])
def test_every_package_says_what_it_is_for(module):
    assert ast.get_docstring(ast.parse(modules()[module].read_text()))


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_is_cheap():
    heavy = "torch", "numpy", "nerfstudio", "diffusers"
    assert run(f"import sys, harmonizer_ns; print([m for m in {heavy} if m in sys.modules])").strip() == "[]"


def test_the_face_of_the_package_gives_its_names_late():
    code = (
        "import harmonizer_ns as h; print(all(getattr(h, n) and n in dir(h) for n in h.__all__), hasattr(h, 'paint'))"
    )
    assert run(code).split()[-2:] == ["True", "False"]


def test_method_configs_load_no_heavy_modules():
    """All of nerfstudio's commands import them, and nerfstudio itself is heavy enough."""
    loaded = loaded_with("harmonizer_ns.plugin.method")
    assert {"harmonizer_ns.distill.repairs", "nerfstudio", "torch"} <= loaded
    assert (
        loaded & {"accelerate", "diffusers", "lpips", "mitsuba", "numba", "peft", "pycolmap", "transformers"} == set()
    )


def test_every_package_is_shipped():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {module for module, file in modules().items() if file.name == "__init__.py"}
    assert set(settings["packages"]) - settings["package-dir"].keys() == on_disk
    for name in ("harmonizer_ns", "gsplat_trainer"):
        assert "py.typed" in settings["package-data"][name]
        assert (ROOT / name / "py.typed").is_file()


def test_every_file_in_a_package_is_shipped():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folders = {module: file.parent for module, file in modules().items() if file.name == "__init__.py"}
    for module, folder in folders.items():
        shipped = {file for pattern in data.get(module, []) for file in folder.glob(pattern)}
        assert {file for file in folder.iterdir() if file.is_file() and file.suffix != ".py"} == shipped


@pytest.mark.parametrize("folder", ["harmonizer_ns", "gsplat_trainer", "tests"])
def test_every_file_names_its_licence(folder):
    for file in (ROOT / folder).rglob("*.py"):
        assert file.read_text().startswith("# SPDX-License-Identifier: Apache-2.0\n"), file.relative_to(ROOT)
