# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torchvision.models.optical_flow import raft_small

from harmonizer_ns.errors import InputError
from harmonizer_ns.flow import consistent, depth_flow, load_raft, raft_flow, warp_by_flow
from harmonizer_ns.types import Cameras
from harmonizer_ns.warp import SURFACE_TOLERANCE

WIDTH, HEIGHT, FOCAL = 24, 16, 20.0


def camera(x=0.0, z=0.0, yaw=0.0):
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor(
        [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]], dtype=torch.float32
    )
    pose[:3, 3] = torch.tensor([x, 0.0, z])
    K = torch.tensor([[FOCAL, 0, WIDTH / 2 + 0.7], [0, FOCAL * 1.1, HEIGHT / 2 - 0.3], [0, 0, 1]])
    return Cameras(pose[None], K[None], WIDTH, HEIGHT)


def random_depth(seed, holes=0.0):
    generator = torch.Generator().manual_seed(seed)
    depth = 2 + 0.2 * torch.rand(1, 1, HEIGHT, WIDTH, generator=generator)
    return depth * (torch.rand(1, 1, HEIGHT, WIDTH, generator=generator) >= holes)


def slow_flow(depth, cam, other_depth, other, tolerance):
    """One pixel at a time, in float64, straight from the definition."""
    offset, valid = torch.zeros(2, HEIGHT, WIDTH), torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    K, K2 = cam.intrinsics[0].double(), other.intrinsics[0].double()
    change = torch.linalg.inv(other.camera_to_world[0].double()) @ cam.camera_to_world[0].double()
    for i in range(HEIGHT):
        for j in range(WIDTH):
            z = depth[0, 0, i, j].double()
            if z <= 0:
                continue
            local = z * torch.linalg.inv(K) @ torch.tensor([j + 0.5, i + 0.5, 1.0], dtype=torch.float64)
            there = (change @ torch.cat([local, local.new_ones(1)]))[:3]
            if there[2] <= 0:
                continue
            x, y = ((K2 @ there)[:2] / there[2]).tolist()
            if not (0 <= x <= WIDTH and 0 <= y <= HEIGHT):
                continue
            taps = [
                (wx * wy, other_depth[0, 0, v, u].item()) for v, wy in _taps(y, HEIGHT) for u, wx in _taps(x, WIDTH)
            ]
            seen = sum(weight * d for weight, d in taps)
            if all(d > 0 for weight, d in taps if weight > 1e-4) and abs(there[2] - seen) <= tolerance * there[2]:
                offset[:, i, j] = torch.tensor([x - j - 0.5, y - i - 0.5])
                valid[i, j] = True
    return offset, valid


def _taps(x, size):
    low = math.floor(x - 0.5)
    return [(min(max(u, 0), size - 1), 1 - abs(x - 0.5 - u)) for u in (low, low + 1)]


@pytest.mark.parametrize(("x", "z", "yaw"), [(0.1, 0.05, 0.05), (-0.3, -0.2, -0.1), (0, 4, math.pi)])
def test_depth_flow_agrees_with_a_slow_reference(x, z, yaw):
    depth, other = random_depth(0, holes=0.05), random_depth(1, holes=0.02)
    flow = depth_flow(depth, camera(), other, camera(x, z, yaw))
    offset, valid = slow_flow(depth, camera(), other, camera(x, z, yaw), SURFACE_TOLERANCE)
    assert (flow.valid[0, 0] != valid).sum() <= 1  # rounding at a threshold
    both = flow.valid[0, 0] & valid
    torch.testing.assert_close(flow.offset[0, :, both], offset[:, both], atol=2e-4, rtol=0)
    if z < 1:
        assert 20 < valid.sum() < valid.numel()


def test_the_same_view_does_not_move():
    depth = random_depth(0, holes=0.2)
    flow = depth_flow(depth, camera(), depth, camera())
    assert torch.equal(flow.valid, depth > 0)
    assert flow.offset.abs().max() < 1e-4


def test_a_wall_moves_by_focal_length_times_baseline_over_depth():
    depth = torch.full((1, 1, HEIGHT, WIDTH), 2.0)
    flow = depth_flow(depth, camera(), depth, camera(x=0.3))
    assert flow.valid[0, 0, :, 3:].all()
    assert not flow.valid[0, 0, :, :3].any()  # they leave the image
    torch.testing.assert_close(flow.offset[0, 0, :, 3:], torch.full((HEIGHT, WIDTH - 3), -FOCAL * 0.3 / 2))


def test_what_something_nearer_hides_is_not_valid():
    wall = torch.full((1, 1, HEIGHT, WIDTH), 2.0)
    box = wall.clone()
    box[..., 5:10, 8:14] = 1.0
    flow = depth_flow(wall, camera(), box, camera())
    assert torch.equal(flow.valid, box == 2)


def test_points_behind_or_in_the_plane_of_the_camera_are_not_valid_and_not_nan():
    depth = torch.full((1, 1, HEIGHT, WIDTH), 2.0)
    for z in (2.0, 3.0):
        flow = depth_flow(depth, camera(), depth, camera(z=z))
        assert not flow.valid.any()
        assert torch.equal(flow.offset, torch.zeros_like(flow.offset))


def test_views_of_different_sizes_are_refused():
    depth = torch.ones(1, 1, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="views of one size"):
        depth_flow(depth, camera(), depth[..., 1:], camera())
    with pytest.raises(ValueError, match="views of one size"):
        depth_flow(depth, camera(), depth, camera().resized(WIDTH * 2, HEIGHT))


def test_warping_by_whole_pixels_copies():
    image = torch.rand(1, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    offset = torch.zeros(1, 2, 8, 10)
    offset[:, 0], offset[:, 1] = 2, -1
    warped = warp_by_flow(image, offset)
    torch.testing.assert_close(warped[..., 1:, :-2], image[..., :-1, 2:])
    torch.testing.assert_close(warped[0, :, 0, -1], image[0, :, 0, -1])  # edges are repeated


def test_flows_that_contradict_each_other_are_not_consistent():
    forward = torch.zeros(1, 2, 8, 10)
    forward[:, 0] = 3
    inside = torch.zeros(1, 1, 8, 10, dtype=torch.bool)
    inside[..., :7] = True
    assert torch.equal(consistent(forward, -forward), inside)
    assert not consistent(forward, torch.zeros_like(forward)).any()
    # |f + b|^2 = 0.36 < 0.01 * (9 + 5.76) + 0.5, but 1 is not below 0.01 * (9 + 4) + 0.5
    assert consistent(forward, -0.8 * forward)[..., :7].all()
    assert not consistent(forward, -2 / 3 * forward).any()


@pytest.fixture(scope="module")
def raft_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "raft.pth"
    torch.save(raft_small(weights=None).state_dict(), path)
    return path


def test_raft_is_torchvisions(raft_file):
    model = load_raft("small", raft_file)
    expected = raft_small(weights=None).eval()
    expected.load_state_dict(torch.load(raft_file, weights_only=True))
    images = torch.rand(2, 3, 128, 136, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # both ways in one batch, as ours: another batch shape sums, and so rounds, in another order
        flow = expected(images * 2 - 1, images.flip(0) * 2 - 1, num_flow_updates=2)[-1][:1]
    found = raft_flow(model, images[:1], images[1:], updates=2)
    assert found.valid.any()
    where = found.valid.expand_as(flow)
    torch.testing.assert_close(found.offset[where], flow[where])


class Known(torch.nn.Module):
    """Stands in for RAFT: everything moves by 3 to the right, and back."""

    def forward(self, first, second, num_flow_updates):
        assert min(first.shape[-2:]) >= 128
        assert first.shape[-1] % 8 == first.shape[-2] % 8 == 0
        assert first.min() >= -1
        flow = torch.zeros(len(first), 2, *first.shape[-2:])
        flow[:, 0] = 3
        flow[len(first) // 2 :] *= -1
        return [flow * 0, flow]


def test_raft_flow_pads_and_masks_what_leaves_the_image():
    image = torch.rand(2, 3, 20, 131)
    flow = raft_flow(Known(), image, image)
    assert flow.offset.shape == (2, 2, 20, 131)
    assert flow.valid[..., :128].all()
    assert not flow.valid[..., 128:].any()
    assert torch.equal(flow.offset[:, 0], 3.0 * flow.valid[:, 0])
    with pytest.raises(ValueError, match="one shape"):
        raft_flow(Known(), image, image[..., 1:])


def test_raft_without_weights_is_an_error(tmp_path, raft_file):
    with pytest.raises(InputError, match=r"no weights at .*gone\.pth"):
        load_raft("small", tmp_path / "gone.pth")
    with pytest.raises(InputError, match="other weights than expected"):
        load_raft("large", raft_file)
