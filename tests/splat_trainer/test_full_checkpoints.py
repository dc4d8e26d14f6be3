# SPDX-License-Identifier: Apache-2.0
import errno

import pytest
import torch
from splat_runs import CPU, go, tiny

from gsplat_trainer import checkpoint
from gsplat_trainer.scene import load_data
from gsplat_trainer.trainer import Trainer
from harmonizer_ns.errors import InputError


def test_full_checkpoint_keeps_everything(tmp_path):
    shared = torch.arange(6.0)
    state = {
        "a": [shared[:3], shared[3:], {"b": torch.zeros(0, 3), "n": None, "x": 0.1, "s": "text"}],
        "bytes": torch.get_rng_state(),
    }
    checkpoint.save_full(tmp_path / "full_000003_rank0.safetensors", state)
    back = checkpoint.load_full(checkpoint.newest_full(tmp_path, 0))
    assert torch.equal(back["a"][1], shared[3:])
    assert back["a"][2]["b"].shape == (0, 3)
    assert (back["a"][2]["n"], back["a"][2]["x"], back["a"][2]["s"]) == (None, 0.1, "text")
    assert torch.equal(back["bytes"], state["bytes"])


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "full_000003_rank0.safetensors"
    checkpoint.save_full(path, {"x": torch.ones(3)})

    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(InputError, match=r"full_000003.*No space left.*intact"):
        checkpoint.save_full(path, {"x": torch.zeros(3)})
    assert torch.equal(checkpoint.load_full(path)["x"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_wrong_full_checkpoints_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "full_000001_rank0.safetensors", metadata={"format": "other"})
    with pytest.raises(InputError, match="format other"):
        checkpoint.load_full(tmp_path / "full_000001_rank0.safetensors")
    (tmp_path / "full_000001_rank0.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(InputError, match="incomplete"):
        checkpoint.load_full(tmp_path / "full_000001_rank0.safetensors")
    with pytest.raises(InputError, match="no full checkpoint"):
        checkpoint.newest_full(tmp_path, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update(step=float("inf")), "step should be a number from 0 on, it is inf"),
        (lambda state: state.update(step=-3), "it is -3"),
        (lambda state: state["splats"]["means"].data.fill_(2e15), "means that are not finite, or beyond"),
        (lambda state: state.pop("order"), "is damaged, or not of this version: KeyError"),
    ],
)
def test_full_checkpoints_of_nonsense_are_refused_with_their_file(capture, tmp_path, change, message):
    config = tiny(capture, tmp_path, enhancer="none", max_steps=1)
    state = {**Trainer(config, load_data(config), CPU).state_dict(), "step": 0}
    change(state)
    checkpoint.save_full(tmp_path / "full_000000_rank0.safetensors", state)
    with pytest.raises(InputError, match=f"full_000000_rank0.safetensors.*{message}"):
        go(tiny(capture, tmp_path / "out", enhancer="none", max_steps=2, resume=tmp_path))
