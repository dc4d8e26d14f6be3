# SPDX-License-Identifier: Apache-2.0
from importlib import import_module

import pytest

from harmonizer_ns.cli import main as command


@pytest.mark.parametrize("name", sorted(command.COMMANDS))
def test_every_command_can_be_called_with_arguments(name, capsys):
    with pytest.raises(SystemExit) as ended:
        import_module(command.COMMANDS[name].module).main(["--help"])
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_help_lists_every_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["harmonizer"])
    command.main()
    printed = capsys.readouterr().out
    assert all(f"  {name}" in printed for name in command.COMMANDS)


def test_unknown_command_is_named(monkeypatch):
    monkeypatch.setattr("sys.argv", ["harmonizer", "paint"])
    with pytest.raises(SystemExit, match=r"paint.*bench"):
        command.main()
