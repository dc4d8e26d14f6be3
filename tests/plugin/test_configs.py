# SPDX-License-Identifier: Apache-2.0
"""A run's config.yml opens as nerfstudio wrote it, and runs nothing of what it could name."""

import importlib.metadata
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from nerfstudio.configs.dataparser_configs import dataparsers
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.trainer import TrainerConfig
from runs import tiny_config

from harmonizer_ns.cli.main import main
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import read_yaml
from harmonizer_ns.plugin import configs
from harmonizer_ns.plugin.configs import ConfigLoader, read_config

METHODS = {name: config for name, config in all_methods.items() if isinstance(config, TrainerConfig)}


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", METHODS)
def test_every_method_opens_as_it_was_saved(tmp_path, name):
    text = yaml.dump(METHODS[name])
    opened = read_config(written(tmp_path, text))
    assert opened == yaml.load(text, Loader=yaml.UnsafeLoader)
    assert yaml.dump(opened) == text


@pytest.mark.parametrize("name", sorted(dataparsers.keys() - {"minimal-parser"}))
def test_every_dataparser_opens_as_it_was_saved(tmp_path, name):
    text = yaml.dump(dataparsers[name])
    assert yaml.dump(read_yaml(written(tmp_path, text), ConfigLoader)) == text


def test_paths_of_other_systems_and_pythons_open(tmp_path):
    paths = "".join(
        f"- !!python/object/apply:{kind} [{parts}]\n"
        for kind, parts in (
            ("pathlib.WindowsPath", r"'C:\', data, x"),
            ("pathlib._local.PosixPath", "/, data, x"),
            ("pathlib.PosixPath", ""),
        )
    )
    opened = read_yaml(written(tmp_path, paths), ConfigLoader)
    assert [path.as_posix() for path in opened] == ["C:/data/x", "/data/x", "."]
    assert all(isinstance(path, Path) for path in opened)


REFUSED = {
    "os.system": "!!python/object/apply:os.system ['touch HARMED']",
    "posix.system": "!!python/object/apply:posix.system ['touch HARMED']",
    "subprocess.Popen": "!!python/object/apply:subprocess.Popen [[touch, HARMED]]",
    "subprocess.run": "!!python/object/new:subprocess.run [[touch, HARMED]]",
    "builtins.eval": '!!python/object/apply:builtins.eval [\'open("HARMED", "w")\']',
    "eval": '!!python/object/apply:eval [\'open("HARMED", "w")\']',
    "functools.partial": "!!python/object/apply:functools.partial [print, x]",
    "os.system ": "!!python/name:os.system ''",
    "python/module:os": "!!python/module:os ''",
    "harm.Import": "!!python/object:harm.Import {}",
    "utils.scripts.run_command": "!!python/object/apply:nerfstudio.utils.scripts.run_command ['touch HARMED']",
    "nerfstudio.utils.scripts.subprocess": "!!python/name:nerfstudio.utils.scripts.subprocess ''",
    "nerfstudio.utils.eval_utils.eval_setup": "!!python/name:nerfstudio.utils.eval_utils.eval_setup ''",
    "nerfstudio.utils.eval_utils.Path": "!!python/name:nerfstudio.utils.eval_utils.Path ''",
    "harmonizer_ns.files.written_whole": "!!python/object/apply:harmonizer_ns.files.written_whole [HARMED]",
    "harmonizer_ns.plugin.trainer.HarmonizeTrainer": "!!python/object:harmonizer_ns.plugin.trainer.HarmonizeTrainer {}",
    "MachineConfig.__class__": "!!python/object:nerfstudio.configs.base_config.MachineConfig {__class__: 1}",
    "LocalWriterConfig.setup": "!!python/object:nerfstudio.configs.base_config.LocalWriterConfig {setup: 1}",
    "MinimalDataParser": "!!python/name:nerfstudio.data.dataparsers.minimal_dataparser.MinimalDataParser ''",
    "external_methods": "!!python/object:nerfstudio.configs.external_methods.ExternalMethodDummyTrainerConfig {}",
    "torch.hub.load": "!!python/name:torch.hub.load ''",
    "torch.optim.adam.cast": "!!python/name:torch.optim.adam.cast ''",
    "_operator.getitem": "!!python/object/apply:_operator.getitem [[1], 0]",
    "made_up": "!made_up {}",
}


@pytest.mark.parametrize("named", REFUSED)
def test_anything_else_is_refused_by_name_and_not_run(tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    Path("harm.py").write_text("open('HARMED', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    text = yaml.dump(METHODS["harmonize-tiny"])
    with pytest.raises(InputError, match=rf"config\.yml, line 2: .*{named.strip()}.*--trust") as caught:
        read_config(written(tmp_path, text.replace("\n", f"\ndata: {REFUSED[named]}\n", 1)))
    assert "\n" not in str(caught.value)
    assert not Path("HARMED").exists()


def test_the_command_refuses_in_one_line_what_nerfstudio_would_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, "!!python/object/apply:os.system ['touch HARMED']")
    with pytest.raises(SystemExit, match=r"harmonizer view: .*config\.yml, line 1: os\.system is not part of"):
        main(["view", str(file), "--device", "cpu"])
    assert not Path("HARMED").exists()
    with pytest.raises(SystemExit, match="holds a int"):
        main(["view", str(file), "--device", "cpu", "--trust"])
    assert Path("HARMED").exists()


@dataclass
class PluginConfig(TrainerConfig):
    """Settings of somebody's method."""


def somebodys_function():
    raise AssertionError("a function was called")


def test_settings_of_a_plugin_open_once_it_is_registered_and_its_functions_never(tmp_path, monkeypatch):
    module = ModuleType("somebodys_method")
    for item in (PluginConfig, somebodys_function):
        monkeypatch.setattr(item, "__module__", "somebodys_method")
        setattr(module, item.__name__, item)
    monkeypatch.setitem(sys.modules, "somebodys_method", module)
    file = written(tmp_path, yaml.dump(PluginConfig(method_name="harmonize-tiny")))
    with pytest.raises(InputError, match=r"somebodys_method\.PluginConfig"):
        read_config(file)
    assert isinstance(read_config(file, trust=True), PluginConfig)

    entry = importlib.metadata.EntryPoint("m", "somebodys_method:method", "nerfstudio.method_configs")
    monkeypatch.setattr(configs, "entry_points", lambda group: [entry] if group == entry.group else [])
    configs._packages.cache_clear()
    try:
        assert isinstance(read_config(file), PluginConfig)
        for tag in (
            "name:somebodys_method.somebodys_function ''",
            "object/apply:somebodys_method.somebodys_function []",
        ):
            with pytest.raises(InputError, match="somebodys_function"):
                read_config(written(tmp_path, f"!!python/{tag}"))
    finally:
        configs._packages.cache_clear()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds a NoneType"),
        ("a: [", "line 1"),
        ("[" * 5000, "nested too deeply"),
        ("!!python/object:nerfstudio.engine.trainer.TrainerConfig {}", "None is not installed"),
        ("!!python/object:nerfstudio.engine.trainer.TrainerConfig {method_name: in2n}", "in2n"),
        ("!!python/object:nerfstudio.engine.trainer.TrainerConfig {method_name: [x]}", "method"),
        ("!!python/object/apply:nerfstudio.utils.writer.EventName [nonsense]", "nonsense"),
        ("!!python/object/apply:pathlib.PosixPath [1]", "cannot read"),
        ("!!python/object:nerfstudio.engine.trainer.TrainerConfig [1]", "mapping"),
        ("a: !!bool maybe", "cannot read"),
        ("a: !!int ''", "cannot read"),
        ("a: !!timestamp soon", "cannot read"),
        ("? [a]\n: 1", "unhashable"),
        ("a: \0", "cannot read"),
        ("x: " + "y" * (1 << 18), "no settings"),
    ],
)
def test_damaged_files_are_told_in_one_line(tmp_path, text, told):
    with pytest.raises(InputError, match=told) as caught:
        read_config(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def nested(first: str, line: str, levels: int = 40) -> str:
    names = [f"a{i}" for i in range(levels)]
    lines = [
        f"a0: &a0 {first}",
        *(f"{new}: &{new} {line.format(old)}" for old, new in itertools.pairwise(names)),
    ]
    return "\n".join(lines)


BOMBS = {
    "lists": nested("[x, x]", "[*{0}, *{0}, *{0}]"),
    "merged mappings": nested("{x: 1}", "{{<<: [*{0}, *{0}, *{0}], x: 1}}"),
    "tuples as keys": nested("!!python/tuple [x]", "!!python/tuple [*{0}, *{0}]") + "\nb: {? *a39 : 1}",
    "a node in itself": "a: &a [*a, *a]",
    "a mapping merged with itself": "&a {<<: *a}",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("loader", [None, ConfigLoader, yaml.UnsafeLoader])
def test_alias_bombs_are_refused_before_they_grow(tmp_path, name, loader):
    with pytest.raises(InputError, match="aliases"):
        read_yaml(written(tmp_path, BOMBS[name]), loader)


def test_a_run_is_opened_with_its_last_checkpoint_and_damage_is_told(tmp_path, capture):
    config = tiny_config(capture, tmp_path)
    config.save_config()
    file = config.get_base_dir() / "config.yml"
    arguments = ["view", str(file), "--device", "cpu"]
    with pytest.raises(SystemExit, match=r"no step-\*\.ckpt in .*nerfstudio_models"):
        main(arguments)
    checkpoints = config.get_checkpoint_dir()
    checkpoints.mkdir()
    (checkpoints / "step-000999999.ckpt").write_bytes(b"old")
    (checkpoints / "step-1000000.ckpt").write_bytes(b"new")
    with pytest.raises(SystemExit, match=r"step-1000000\.ckpt was refused"):
        main(arguments)
    file.write_text(file.read_text().replace("pipeline: !!", "other: !!"))
    with pytest.raises(SystemExit, match=r"the run of .*config\.yml cannot be opened: AttributeError"):
        main(arguments)
