# SPDX-License-Identifier: Apache-2.0
import os
import shlex
import subprocess
import sys
from importlib import import_module

import pytest

from harmonizer_ns import __version__
from harmonizer_ns.cli.main import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_how_the_command_is_called(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: harmonizer {name} ")
    assert f"\nexamples:\n  harmonizer {name}" in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_command_lines_that_can_be_read(name):
    module = import_module(COMMANDS[name].module)
    for line in module.EXAMPLES.strip().splitlines():
        words = shlex.split(line, comments=True)
        module.parse(words[words.index(name) + 1 :])


def test_help_lists_every_command(capsys):
    main([])
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)


def test_the_version_is_told(capsys):
    main(["--version"])
    assert capsys.readouterr().out.split() == ["harmonizer", __version__]


@pytest.mark.parametrize(
    ("words", "unbuffered"), [("--help", ""), ("--help", "1"), ("enhancers", "1"), ("convert --help", "1")]
)
def test_output_that_nobody_reads_ends_a_command_without_a_word(words, unbuffered):
    command = [sys.executable, "-m", "harmonizer_ns.cli.main", *words.split()]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 128 + 13


@pytest.mark.parametrize(
    ("typed", "answer"), [("enhnace", "did you mean enhance"), ("paint", "the commands are train")]
)
def test_a_misspelt_command_is_answered_with_what_there_is(typed, answer):
    with pytest.raises(SystemExit, match=answer):
        main([typed])


@pytest.mark.parametrize(
    "words",
    [
        "enhance gone.png out.png",
        "evaluate gone --enhancer none",
        "view gone.ply",
        "view gone.yml",
        "convert gone.pkl out",
        "synthesize gone --output out",
        "train builtin --pairs gone.json --output out",
    ],
)
def test_bad_input_ends_with_one_line_that_names_it(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^harmonizer \w+: .*gone"):
        main(words.split())


@pytest.mark.parametrize("words", ["enhance gone.png out.png", "evaluate gone", "view gone.ply"])
def test_unknown_enhancers_are_refused_before_any_data_is_read(words):
    with pytest.raises(SystemExit, match=r"unknown enhancer 'paint'.*difix-ref"):
        main([*words.split(), "--enhancer", "paint"])
