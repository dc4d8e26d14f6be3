# SPDX-License-Identifier: Apache-2.0
import threading

import numpy as np
import pytest
import torch
from pretended_cuda import counted

pytestmark = pytest.mark.usefixtures("gpu")


def test_what_is_made_from_tensors_on_the_device_lies_there():
    up = torch.rand(3, 4, device="cuda")
    for made in (up[1:].T, up + 1, torch.zeros_like(up), up.new_ones(2), up.half(), up.sum(), torch.eye(3).to(up)):
        assert made.device == torch.device("cuda", 0)
        assert made.is_cuda
    assert up.cpu().device == torch.zeros(1).device == torch.device("cpu")


def test_devices_do_not_mix_but_for_single_numbers():
    up, down = torch.rand(3, device="cuda"), torch.rand(3)
    assert (up * torch.tensor(2.0)).is_cuda
    for mix in (lambda: up + down, lambda: torch.cat([up, down]), lambda: down[up > 0.5], lambda: down.add_(up)):
        with pytest.raises(RuntimeError, match="same device"):
            mix()
    for leave in (up.numpy, lambda: np.asarray(up)):
        with pytest.raises(TypeError, match="numpy"):
            leave()


def test_gradients_lie_where_their_tensors_do():
    down = torch.rand(3, requires_grad=True)
    layer = torch.nn.Linear(3, 2).to("cuda")
    optimizer = torch.optim.Adam(layer.parameters())
    layer(down.to("cuda")).square().sum().backward()
    optimizer.step()
    assert layer.weight.grad.is_cuda
    assert not down.grad.is_cuda
    assert optimizer.state[layer.weight]["exp_avg"].is_cuda


@pytest.mark.parametrize(
    ("act", "waits"),
    [
        (lambda up: up.sum().item(), 1),
        (lambda up: bool(up[0] > 2), 1),
        (lambda up: up.nonzero(), 1),
        (lambda up: up[up > 0.5], 1),
        (lambda up: up.masked_fill(up > 0.5, 0), 0),
        (lambda up: torch.where(up > 0.5, up, 0.0), 0),
        (lambda up: up[1:].median(), 0),
        (lambda up: torch.linalg.inv(torch.diag(up)), 1),
        (lambda up: torch.cuda.synchronize(), 1),
    ],
)
def test_waits_are_counted(act, waits):
    up = torch.rand(4, device="cuda") + 0.1
    with counted() as counts:
        act(up)
    assert (counts.waits, counts.up, counts.down) == (waits, 0, 0), str(counts)


def test_copies_are_counted_with_their_bytes_and_places():
    bytes_, up = torch.zeros(10, dtype=torch.uint8), torch.zeros(10, device="cuda")
    with counted() as counts:
        bytes_.to("cuda", non_blocking=True)
    assert (counts.up, counts.up_bytes, counts.waits) == (1, 10, 0)
    with counted() as counts:
        bytes_.to("cuda", torch.float32)  # the CPU makes them floats
        up.copy_(bytes_.float())
        torch.tensor([1.0], device="cuda")
        up[[0, 1]]
    assert (counts.up, counts.up_bytes, counts.waits) == (4, 40 + 40 + 4 + 16, 4)
    with counted() as counts:
        up.cpu(), up.tolist(), up.byte().to("cpu", torch.float32)
    assert (counts.down, counts.down_bytes) == (3, 40 + 40 + 10)
    assert counts.places
    assert all("test_pretended_cuda.py:" in place for place in counts.places)


def test_other_threads_see_the_device():
    up, seen = torch.rand(3, device="cuda"), []
    with counted() as counts:
        thread = threading.Thread(target=lambda: seen.append((up + 1).device.type + str(up.sum().item() > 0)))
        thread.start()
        thread.join()
    assert seen == ["cudaTrue"]
    assert counts.waits == 1
