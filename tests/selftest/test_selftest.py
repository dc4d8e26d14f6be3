# SPDX-License-Identifier: Apache-2.0
"""The self-test in short, and that it would notice: readers and writers that fail on purpose are counted as such."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

pytest.importorskip("hypothesis")

from harmonizer_ns.cli.main import main
from harmonizer_ns.errors import InputError
from harmonizer_ns.selftest import fuzz as fuzzing
from harmonizer_ns.selftest.damage import JSON, attacks
from harmonizer_ns.selftest.kills import WRITERS, Writer, full_disk, survived
from harmonizer_ns.selftest.readers import READERS, Reader

SLOW = ("Difix .pkl", "nerfstudio config.yml")
"""Their packages take long to be imported; the whole self-test has them."""
SHORT = """
import sys
from harmonizer_ns.selftest.fuzz import check_readers
from harmonizer_ns.selftest.kills import check_writers
kept, *names = sys.argv[1:]
sys.exit(check_readers(names, 2, 5, kept, print) + check_writers(2, 0, print))
"""


def test_damaged_files_killed_writers_and_full_disks_do_no_harm(tmp_path):
    """In a process of its own: the self-test forks, which threads of other tests would not survive."""
    names = [name for name in READERS if name not in SLOW]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SHORT, str(tmp_path), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = re.search(r"all, (\d+) cases +(\d+) +(\d+) +0 +0 +0 +0\n", done.stdout)
    assert whole is not None, done.stdout
    assert int(whole[1]) == 2 * len(names) == int(whole[2]) + int(whole[3])
    assert len(re.findall(r" 2 +1 +0\n", done.stdout)) == len(WRITERS) == 4


GOOD = '{"step": 50, "names": ["a", "b"]}'


def toy(read) -> Reader:
    return Reader(lambda folder: (folder / "values.json").write_text(GOOD), "values.json", read, (JSON,))


def outcomes(reader: Reader, tmp_path: Path, cases: int = 80) -> Counter[str]:
    fuzzing.make(reader, tmp_path / "good")
    return fuzzing.fuzz("toy", reader, tmp_path / "good", tmp_path / "kept", cases, first_seed=0)


def careless(folder: Path) -> dict[str, int]:
    try:
        return {"step": JSON.load(folder / "values.json")["step"]}
    except ValueError as error:
        raise InputError(f"{folder / 'values.json'} is not JSON") from error


def test_tracebacks_are_counted_and_their_inputs_kept(tmp_path):
    found = outcomes(toy(careless), tmp_path)
    assert found["traceback"] > 2
    kept = sorted((tmp_path / "kept" / "toy").glob("traceback-*"))
    assert len(kept) == found["traceback"]
    assert all((folder / "values.json").is_file() for folder in kept)
    assert any("KeyError" in (folder / "what.txt").read_text() for folder in kept)
    assert (tmp_path / "good" / "values.json").read_text() == GOOD


def test_nonsense_is_counted(tmp_path):
    assert outcomes(toy(careless), tmp_path)["nonsense"] > 1


def test_messages_that_name_no_file_are_nonsense(tmp_path):
    def read(folder):
        try:
            return careless(folder)
        except Exception as error:
            raise InputError("something is wrong") from error

    found = outcomes(toy(read), tmp_path)
    assert found["nonsense"] > 2
    assert not found["refused"]


def test_a_reader_that_hangs_or_dies_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzing, "SECONDS", 1.0)

    def read(folder):
        content = (folder / "values.json").read_bytes()
        if not content:
            time.sleep(60)
        if content.startswith(b"\0"):  # as from a segmentation fault
            os._exit(3)
        return careless(folder)

    found = outcomes(toy(read), tmp_path, cases=4 * len(attacks(tmp_path)))
    assert found["hang"] == 1
    assert found["traceback"] > 0
    assert found["refused"] > 2


def test_files_that_run_commands_are_noticed(tmp_path):
    def read(folder):
        try:
            return careless(folder)
        except InputError:
            return pickle.loads((folder / "values.json").read_bytes())

    assert outcomes(toy(read), tmp_path, cases=4 * len(attacks(tmp_path)))["executed"] == 1


def write_in_place(folder: Path, version: int) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / "values").open("wb", buffering=0) as file:
        for _ in range(2000):
            file.write(bytes([version % 256]) * 100)


def read_in_place(folder: Path) -> list[list[torch.Tensor]]:
    values = torch.frombuffer(bytearray((folder / "values").read_bytes()), dtype=torch.uint8)
    if len(values) < 200_000:
        raise InputError("it is not whole")
    return [[values]]


def test_writers_that_lose_something_are_noticed(tmp_path):
    writer = Writer(write_in_place, read_in_place)
    assert survived(writer, tmp_path / "kills", times=4, seed=0)
    assert len(full_disk(writer, tmp_path / "full")) == 2


def test_bad_options_and_a_missing_package_are_one_line(monkeypatch):
    with pytest.raises(SystemExit, match=r"no reader 'transform\.json'; did you mean transforms\.json"):
        main(["selftest", "--readers", "transform.json"])
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(SystemExit, match=r"needs hypothesis: pip install 'harmonizer-ns\[selftest\]'"):
        main(["selftest"])
