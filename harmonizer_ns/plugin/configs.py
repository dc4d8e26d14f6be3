# SPDX-License-Identifier: Apache-2.0
"""A run's config.yml is read without running what it names, unlike by nerfstudio's own commands."""

from __future__ import annotations

import dataclasses
import os
import sys
from enum import Enum
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path, PureWindowsPath
from typing import Any, NoReturn

import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.trainer import TrainerConfig
from yaml.constructor import ConstructorError

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import read_yaml

_FUNCTIONS = (
    "nerfstudio.data.utils.nerfstudio_collate.nerfstudio_collate",
    "nerfstudio.data.datamanagers.base_datamanager.variable_res_collate",
)
_RUNS_MORE = ("nerfstudio.data.dataparsers.minimal_dataparser", "nerfstudio.configs.external_methods")
"""These of nerfstudio's modules unpickle what lies beside a capture, or install packages."""
_PATHS = ("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath")


def read_config(path: Path, *, trust: bool = False) -> TrainerConfig:
    """The settings of a run, as ``ns-train`` saves them.

    Args:
        path: of the run's config.yml.
        trust: build whatever the file names, which may run any code.

    Raises:
        InputError: when it is missing, no such file, of a method that is not installed, or names anything besides the
            settings and parts of nerfstudio, of this package and of plugins that are registered with nerfstudio.
    """
    config = read_yaml(path, yaml.UnsafeLoader if trust else ConfigLoader)
    if not isinstance(config, TrainerConfig):
        raise InputError(f"{path} is not a nerfstudio run's config.yml: it holds a {type(config).__name__}")
    if not isinstance(all_methods.get(str(config.method_name)), TrainerConfig):
        raise InputError(f"{path}: the method {config.method_name!r} is not installed")
    return config


class ConfigLoader(yaml.SafeLoader):
    """Builds plain values and what settings consist of: dataclasses, enum members and paths, and names of classes.

    Nothing is imported, and no function and no constructor of a file's choice is called.
    """

    def named(self, name: str, node: yaml.Node) -> Any:
        """A class, or one of the functions that nerfstudio's own settings name."""
        module, _, attribute = name.rpartition(".")
        found = getattr(sys.modules.get(module), attribute, None)
        if name in _FUNCTIONS and found is not None:
            return found
        if not isinstance(found, type) or not (_is_allowed(module) and _is_allowed(found.__module__)):
            self.refuse(name, node)
        return found

    def refuse(self, name: str, node: yaml.Node) -> NoReturn:
        """Say what a file names, and how it can be opened all the same."""
        advice = "install its plugin, or give --trust if you trust the file's author with this machine"
        problem = f"{name} is not part of the settings of nerfstudio and its installed plugins; {advice}"
        raise ConstructorError(None, None, problem, node.start_mark)


def _is_allowed(module: str) -> bool:
    return (module.partition(".")[0] in _packages() and module not in _RUNS_MORE) or module.startswith("torch.optim.")


@cache
def _packages() -> frozenset[str]:
    """nerfstudio, this package, and those that nerfstudio loads methods and dataparsers from."""
    groups = ("nerfstudio.method_configs", "nerfstudio.dataparser_configs")
    modules = [entry.module for group in groups for entry in entry_points(group=group)]
    for variable in ("NERFSTUDIO_METHOD_CONFIGS", "NERFSTUDIO_DATAPARSER_CONFIGS"):
        modules += [item.partition("=")[2] for item in os.environ.get(variable, "").split(",") if item]
    return frozenset({"nerfstudio", "harmonizer_ns", *(name.partition(".")[0].partition(":")[0] for name in modules)})


def _object(loader: ConfigLoader, name: str, node: Any) -> Any:
    kind = loader.named(name, node)
    if not dataclasses.is_dataclass(kind):
        loader.refuse(name, node)
    state = loader.construct_mapping(node, deep=True)
    fields = {field.name for field in dataclasses.fields(kind)}
    for key in state.keys() - fields:  # settings of earlier versions pass, methods stay what they are
        if not isinstance(key, str) or hasattr(kind, key):
            loader.refuse(f"{name}.{key}", node)
    item = object.__new__(kind)
    restore = getattr(item, "__setstate__", item.__dict__.update)
    restore(state)
    return item


def _applied(loader: ConfigLoader, name: str, node: Any) -> Any:
    values = loader.construct_sequence(node, deep=True)
    if name in _PATHS:
        return Path(PureWindowsPath(*values).as_posix() if "Windows" in name else Path(*values))
    if name == "_operator.getitem" and all(isinstance(value, type) for value in values):
        generic, parameter = values
        return generic[parameter]  # type: ignore[index]
    kind = loader.named(name, node)
    if not (isinstance(kind, type) and issubclass(kind, Enum)):
        loader.refuse(name, node)
    return kind(*values)


def _name(loader: ConfigLoader, name: str, node: Any) -> Any:
    return loader.named(name, node)


def _tuple(loader: ConfigLoader, node: Any) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))


def _unknown(loader: ConfigLoader, node: yaml.Node) -> NoReturn:
    loader.refuse(node.tag.removeprefix("tag:yaml.org,2002:"), node)


_PYTHON = "tag:yaml.org,2002:python/"
ConfigLoader.add_constructor(None, _unknown)  # type: ignore[arg-type]
ConfigLoader.add_constructor(f"{_PYTHON}tuple", _tuple)
ConfigLoader.add_multi_constructor(f"{_PYTHON}name:", _name)
ConfigLoader.add_multi_constructor(f"{_PYTHON}object:", _object)
ConfigLoader.add_multi_constructor(f"{_PYTHON}object/apply:", _applied)
