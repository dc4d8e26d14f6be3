# SPDX-License-Identifier: Apache-2.0
"""Files are written whole or not at all, and errors say which file they are about."""

import errno
from pathlib import Path

import pytest

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import write_json, written_whole


def test_what_was_there_stays_until_the_new_is_whole(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), written_whole(path) as partial:
        partial.write_text(str(1 / 0))
    assert path.read_text() == "old"
    with written_whole(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_one_that_was_there(tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "old").touch()
    with written_whole(folder) as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert [file.name for file in folder.iterdir()] == ["new"]


def write_on_a_full_disk(path: Path) -> None:
    with written_whole(path, "Make room"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*x\.txt: .*No space left.*\. Make room"):
        write_on_a_full_disk(tmp_path / "x.txt")
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_json(tmp_path / "file" / "x.json", {})


def test_errors_of_other_files_that_the_block_reads_are_theirs(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"), written_whole(tmp_path / "x.txt") as partial:
        partial.write_text(Path(tmp_path / "missing").read_text())
