# SPDX-License-Identifier: Apache-2.0
"""Views and the checkpoints that name them, whatever happens in between."""

import json

import pytest
import torch

from harmonizer_ns.distill.view_files import digest_of, named_views, view_path, views_beside, views_folder, write_view
from harmonizer_ns.errors import InputError

VIEWS = {name: torch.full((7, 4, 6), number, dtype=torch.uint8) for number, name in enumerate("abcd")}


class Store:
    """Holds views by their names."""

    def __init__(self, names):
        self.names = names

    def write(self, folder):
        for name in self.names:
            write_view(view_path(folder, digest_of(VIEWS[name])), VIEWS[name])


def named(path):
    return named_views(json.loads(path.read_text()))


def save(folder, step, names, write=lambda path, state: path.write_text(json.dumps(state))):
    path = folder / f"step-{step}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with views_beside(path, Store(names), "*.json*", named):
        write(path, {"store": {"views": [{"sha256": digest_of(VIEWS[name])} for name in names]}})


def there(folder):
    files = {path.stem for path in views_folder(folder).glob("*.png")}
    return {name for name, pixels in VIEWS.items() if digest_of(pixels) in files}


def test_views_stay_while_a_checkpoint_names_them(tmp_path):
    folder = tmp_path / "ckpts"
    save(folder, 9, "ab")
    save(folder, 10, "bc")
    assert there(folder) == set("abc")
    mine = views_folder(folder) / "mine.png"
    mine.touch()
    (folder / "step-9.json").unlink()
    save(folder, 11, "cd")
    assert there(folder) == set("bcd")
    (folder / "step-10.json").rename(folder / "step-10.json.kept")
    save(folder, 12, "d")
    assert there(folder) == set("bcd")
    assert mine.exists()


def test_a_checkpoint_that_cannot_be_read_keeps_all_views(tmp_path):
    save(tmp_path / "ckpts", 1, "ab")
    (tmp_path / "ckpts" / "step-1.json").write_text('{"store": {}}')
    save(tmp_path / "ckpts", 2, "c")
    assert there(tmp_path / "ckpts") == set("abc")


def test_a_checkpoint_that_fails_leaves_the_last_one_and_its_views(tmp_path):
    save(tmp_path / "ckpts", 1, "ab")

    def full(path, state):
        raise InputError("cannot write: no space left")

    with pytest.raises(InputError, match="no space"):
        save(tmp_path / "ckpts", 2, "bcd", full)
    assert there(tmp_path / "ckpts") == set("ab")
    save(tmp_path / "ckpts", 3, "bc")
    assert there(tmp_path / "ckpts") == set("abc")


def test_a_view_that_cannot_be_written_ends_before_the_checkpoint(tmp_path):
    save(tmp_path / "ckpts", 1, "a")
    views = views_folder(tmp_path / "ckpts")
    view_path(views, digest_of(VIEWS["b"])).mkdir()
    with pytest.raises(InputError, match=r"cannot write .*\.png.*Earlier checkpoints are intact"):
        save(tmp_path / "ckpts", 2, "b")
    assert not (tmp_path / "ckpts" / "step-2.json").exists()


def test_two_runs_in_one_folder_keep_their_views_apart(tmp_path):
    assert views_folder(tmp_path / "a") != views_folder(tmp_path / "b")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert views_folder(tmp_path / "link") == views_folder(tmp_path / "a")
