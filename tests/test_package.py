# SPDX-License-Identifier: Apache-2.0
"""Promises about the package as a whole: what imports what, what is shipped, what a module may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "harmonizer_ns"
SMALL = {
    "assets",
    "captures",
    "errors",
    "features",
    "flow",
    "hub",
    "images",
    "media",
    "pairs",
    "pointcloud",
    "poses",
    "ssim",
    "types",
    "warp",
}
MAY_IMPORT = {  # besides the small modules and itself
    "raster": set(),
    "enhancers": set(),
    "distill": {"enhancers.base"},
    "training": {"enhancers", "evaluation.metrics"},
    "synthesis": {"raster", "distill"},
    "viewing": {"enhancers"},
    "evaluation": {"enhancers", "synthesis", "distill", "raster"},
}


def imported_modules(file: Path) -> set[str]:
    """Names below ``harmonizer_ns`` that a file imports, at any level."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("harmonizer_ns."):
            names.add(node.module.removeprefix("harmonizer_ns."))
    return names


@pytest.mark.parametrize("module", sorted(SMALL))
def test_small_modules_import_only_small_modules(module):
    assert {name.split(".")[0] for name in imported_modules(PACKAGE / f"{module}.py")} <= SMALL


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_point_one_way(package):
    for file in (PACKAGE / package).rglob("*.py"):
        for name in imported_modules(file):
            top = name.split(".")[0]
            allowed = top in SMALL | {package} or any(
                name == other or name.startswith(f"{other}.") for other in MAY_IMPORT[package]
            )
            assert allowed, f"{file.relative_to(ROOT)} imports harmonizer_ns.{name}"


def test_only_the_plugin_imports_nerfstudio():
    for file in PACKAGE.rglob("*.py"):
        if "plugin" not in file.parts:
            roots = {
                (node.module or "").split(".")[0]
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.ImportFrom)
            }
            assert "nerfstudio" not in roots, file.relative_to(ROOT)


def test_importing_the_package_is_cheap():
    code = "import sys, harmonizer_ns; print([m for m in ('torch', 'nerfstudio', 'diffusers') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_method_configs_load_no_heavy_modules():
    code = (
        "import sys, nerfstudio.configs.method_configs; "
        "print([m for m in ('diffusers', 'transformers', 'numba', 'mitsuba') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip().splitlines()[-1] == "[]"


def test_every_package_is_shipped():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for name in ("harmonizer_ns", "gsplat_trainer")
        for file in (ROOT / name).rglob("__init__.py")
    }
    assert set(settings["packages"]) - settings["package-dir"].keys() == on_disk


def test_every_file_names_its_licence():
    for folder in ("harmonizer_ns", "gsplat_trainer", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            assert file.read_text().startswith("# SPDX-License-Identifier: Apache-2.0\n"), file.relative_to(ROOT)
