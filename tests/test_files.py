# SPDX-License-Identifier: Apache-2.0
"""Files are written whole or not at all, and errors say which file they are about."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gsplat_trainer.checkpoint import full_path, newest_full
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import locked, read_torch, read_weights, remove_leftovers, write_json, written_whole
from harmonizer_ns.plugin.trainer import newest_checkpoint
from harmonizer_ns.training.checkpoints import list_runs


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


def write_folder(folder: Path) -> None:
    with written_whole(folder) as partial:
        partial.mkdir()
        (partial / "new").touch()


def test_a_folder_replaces_one_that_was_there(tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "old").touch()
    write_folder(folder)
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


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    folder, replace = tmp_path / "x", os.replace
    folder.mkdir()
    (folder / "old").touch()

    def failing(source, target):
        if Path(source).name == "x" and Path(target) == folder and Path(source) != folder and (source / "new").exists():
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr("os.replace", failing)
    with pytest.raises(InputError, match="Input/output"):
        write_folder(folder)
    assert [file.name for file in folder.iterdir()] == ["old"]


def test_all_is_on_the_disk_before_it_appears(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        "os.fsync", lambda file: (done.append(Path(os.readlink(f"/proc/self/fd/{file}")).name), fsync(file))
    )
    monkeypatch.setattr("os.replace", lambda *paths: (done.append("appears"), replace(*paths)))
    with written_whole(tmp_path / "x") as partial:
        (partial / "inner").mkdir(parents=True)
        (partial / "inner" / "a.txt").write_text("a")
        (partial / "b.txt").write_text("b")
    assert sorted(done[:-1]) == ["a.txt", "b.txt", "inner", "x"]
    assert done[-2:] == ["x", "appears"]


def test_a_planted_link_leads_nowhere(tmp_path):
    """Wherever an attacker expects the unfinished file, what a link there points to stays as it is."""
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    place = tmp_path / "shared"
    place.mkdir()
    for name in (f".x.{os.getpid()}.partial.txt", ".x.partial", "x.txt"):
        (place / name).symlink_to(precious)
    with written_whole(place / "x.txt") as partial:
        assert not partial.exists()
        assert partial.parent.stat().st_mode & 0o077 == 0
        partial.write_text("new")
    assert precious.read_text() == "precious"
    assert (place / "x.txt").read_text() == "new"
    assert not (place / "x.txt").is_symlink()


def test_leftovers_of_killed_processes_go_and_what_a_living_one_writes_stays(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from harmonizer_ns.files import written_whole
with written_whole(Path({str(tmp_path)!r}) / "killed.bin") as partial:
    partial.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert list(tmp_path.glob(".killed.*.partial/killed.bin"))
    for name in (".tmpAb12Cd", ".x.123.partial.ply", ".keep", "x.partial"):
        (tmp_path / name).touch()
    (tmp_path / ".step-00000003.partial").mkdir()
    (tmp_path / ".y.1.partial").symlink_to(tmp_path / ".keep")
    with written_whole(tmp_path / "living.txt") as partial:
        partial.write_text("alive")
        remove_leftovers(tmp_path, tmp_path / "nowhere")
        assert partial.read_text() == "alive"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keep", "living.txt", "x.partial"]


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    with locked(tmp_path / "run"):
        with pytest.raises(InputError, match=rf"process {os.getpid()} on .*another --result_dir"):
            locked(tmp_path / "run", "--result_dir").__enter__()
        with locked(tmp_path / "other"):
            pass
    with locked(tmp_path / "run"):
        pass


def test_steps_are_numbers_wherever_the_newest_checkpoint_is_looked_for(tmp_path):
    for step in (5, 999_999, 1_000_000, 999_999_999, 1_000_000_000):
        full_path(tmp_path, step, 0).touch()
        (tmp_path / f"step-{step:09d}.ckpt").touch()
        (tmp_path / f"step-{step:08d}").mkdir()
        (tmp_path / f"step-{step:08d}" / "state.json").touch()
        assert newest_full(tmp_path, 0) == full_path(tmp_path, step, 0)
        assert newest_checkpoint(tmp_path).name == f"step-{step:09d}.ckpt"
        assert list_runs(tmp_path)[-1].name == f"step-{step:08d}"


class Harmful:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("read", [read_torch, read_weights])
@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_refused_pickle_is_not_recommended_to_be_trusted(tmp_path, read, write):
    write({"x": Harmful()}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt was refused") as caught:
        read(tmp_path / "x.pt")
    assert not any(word in str(caught.value) for word in ("weights_only", "trust", "safe_globals"))
